//! The state machine that the node drives, and the state that readers see.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{
    Rejection, Reply, State,
    command::{CommandError, apply, decode},
    image::{self, ImageError},
};

/// What applying one command answers: a reply, or the refusal that every member reaches alike.
pub(crate) type Outcome = Result<Reply, Rejection>;

/// The newest applied state, for readers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published(Arc<RwLock<View>>);

/// A state and how it came about.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The state.
    pub(crate) state: State,
    /// The index of the last entry in it.
    pub(crate) index: u64,
    /// A sum over all entries applied so far and their indexes: equal on all members at equal indexes.
    pub(crate) digest: u64,
}

impl Published {
    /// The state as of now; it does not change under the reader.
    pub(crate) fn state(&self) -> State {
        self.0.read().state.clone()
    }

    /// The state with index and digest.
    pub(crate) fn view(&self) -> View {
        self.0.read().clone()
    }

    fn set(&self, view: &View) {
        *self.0.write() = view.clone();
    }
}

/// The key-value state machine. Every applied command is visible through [`Published`] before its answer leaves.
#[derive(Debug, Default)]
pub(crate) struct KvMachine {
    view: View,
    published: Published,
}

impl KvMachine {
    /// Where readers find the state.
    pub(crate) fn published(&self) -> Published {
        self.published.clone()
    }

    /// Applies the command in `data`, the entry at `index`.
    ///
    /// # Errors
    /// [`CommandError`] for an entry that is no command: the caller has to stop, since going on without it would
    /// leave this member's state different from the others'.
    pub(crate) fn apply(&mut self, index: u64, data: &Bytes) -> Result<Outcome, CommandError> {
        let op = decode(data.clone())?;
        self.view.index = index;
        self.view.digest = chain(self.view.digest, index, data);
        let outcome = apply(&self.view.state, &op).map(|(state, reply)| {
            self.view.state = state;
            reply
        });
        self.published.set(&self.view);
        Ok(outcome)
    }

    /// A view to write out while commands go on being applied.
    pub(crate) fn image(&self) -> Image {
        Image(self.view.clone())
    }

    /// Replaces the state by the one that `content` holds, as of `index`; all of it is read and checked before.
    ///
    /// # Errors
    /// [`ImageError`]; the state is as it was.
    pub(crate) fn restore(&mut self, index: u64, content: &mut dyn Read) -> Result<(), ImageError> {
        let (state, digest) = image::read(content)?;
        self.view = View { state, index, digest };
        self.published.set(&self.view);
        Ok(())
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.view.state.bytes()
    }
}

/// A state that can be written out.
pub(crate) struct Image(View);

impl Image {
    /// Writes the image to `to`.
    pub(crate) fn write(&self, to: &mut dyn Write) -> std::io::Result<()> {
        image::write(&self.0.state, self.0.digest, to)
    }
}

/// FNV-1a over the digest before, the index and the entry: it finds mistakes, it is no defence against anyone.
fn chain(digest: u64, index: u64, data: &[u8]) -> u64 {
    let head = digest.to_le_bytes().into_iter().chain(index.to_le_bytes());
    head.chain(data.iter().copied()).fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
