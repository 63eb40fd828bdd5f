//! A state as bytes: what a snapshot of the key-value state holds.
//!
//! Equal states give equal bytes. All integers are little-endian:
//!
//! ```text
//! header  magic "OARLKV" | version u16 = 1 | revision i64 | digest u64 | keys u64
//! key     key length u32 | value length u32 | create i64 | mod i64 | version i64 | key | value      ascending by key
//! footer  crc32 u32 of all before
//! ```

use std::io::{self, BufWriter, Read, Write};

use bytes::Bytes;

use super::{State, state::Item};

const MAGIC: &[u8; 6] = b"OARLKV";
const VERSION: u16 = 1;
/// No key or value is larger: many times what a request can carry.
const MAX_LEN: u32 = 1 << 30;

/// Why bytes are not the image of a state. Nothing was taken from them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// They ended early or could not be read.
    #[error("the key-value snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// They begin differently.
    #[error("this is not a key-value snapshot")]
    NotAnImage,
    /// They were written by a newer version.
    #[error("the key-value snapshot has format version {0}; this version reads version {VERSION}")]
    UnknownVersion(u16),
    /// They contradict themselves.
    #[error("the key-value snapshot is damaged at key number {key}: {what}")]
    Damaged {
        /// How many keys came before.
        key: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Writes `state` and `digest` to `to`.
pub(super) fn write(state: &State, digest: u64, to: &mut dyn Write) -> io::Result<()> {
    let mut to =
        Summed { inner: BufWriter::with_capacity(64 << 10, to), crc: crc32fast::Hasher::new() };
    to.write_all(MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    to.write_all(&state.revision().to_le_bytes())?;
    to.write_all(&digest.to_le_bytes())?;
    to.write_all(&(state.len() as u64).to_le_bytes())?;
    for (key, item) in state.iter() {
        to.write_all(&length(key)?.to_le_bytes())?;
        to.write_all(&length(&item.value)?.to_le_bytes())?;
        to.write_all(&item.create_revision.to_le_bytes())?;
        to.write_all(&item.mod_revision.to_le_bytes())?;
        to.write_all(&item.version.to_le_bytes())?;
        to.write_all(key)?;
        to.write_all(&item.value)?;
    }
    let crc = to.crc.clone().finalize();
    to.write_all(&crc.to_le_bytes())?;
    to.inner.flush()
}

/// Reads a state and its digest from `from`, up to its end.
///
/// # Errors
/// [`ImageError`] at the first thing that is not as [`write()`] leaves it; memory grows with what was read, never
/// with what a length field says.
pub(super) fn read(from: &mut dyn Read) -> Result<(State, u64), ImageError> {
    let mut from = Summed { inner: from, crc: crc32fast::Hasher::new() };
    if &from.array::<6>()? != MAGIC {
        return Err(ImageError::NotAnImage);
    }
    let version = u16::from_le_bytes(from.array()?);
    if version != VERSION {
        return Err(ImageError::UnknownVersion(version));
    }
    let mut state = State::new();
    state.set_revision(i64::from_le_bytes(from.array()?));
    let digest = u64::from_le_bytes(from.array()?);
    let keys = u64::from_le_bytes(from.array()?);

    let mut last = Bytes::new(); // no key is empty, so the first one is after this
    for number in 0..keys {
        let damaged = |what| ImageError::Damaged { key: number, what };
        let key_len = u32::from_le_bytes(from.array()?);
        let value_len = u32::from_le_bytes(from.array()?);
        if key_len > MAX_LEN || value_len > MAX_LEN {
            return Err(damaged("a length is beyond the limit"));
        }
        let create_revision = i64::from_le_bytes(from.array()?);
        let mod_revision = i64::from_le_bytes(from.array()?);
        let version = i64::from_le_bytes(from.array()?);
        if create_revision < 2
            || mod_revision < create_revision
            || state.revision() < mod_revision
            || version < 1
        {
            return Err(damaged("its revisions contradict each other"));
        }
        let key = from.bytes(key_len)?;
        let value = from.bytes(value_len)?;
        if key <= last {
            return Err(damaged("keys are out of order"));
        }
        last = key.clone();
        state.insert(key, Item { create_revision, mod_revision, version, value });
    }
    let expected = from.crc.clone().finalize();
    if u32::from_le_bytes(from.array()?) != expected {
        return Err(ImageError::Damaged { key: keys, what: "the checksum does not match" });
    }
    if from.inner.read(&mut [0])? != 0 {
        return Err(ImageError::Damaged { key: keys, what: "bytes follow the end" });
    }
    Ok((state, digest))
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len())
        .ok()
        .filter(|len| *len <= MAX_LEN)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Sums what passes through.
struct Summed<T> {
    inner: T,
    crc: crc32fast::Hasher,
}

impl<W: Write> Summed<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl Summed<&mut dyn Read> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.inner.read_exact(&mut array)?;
        self.crc.update(&array);
        Ok(array)
    }

    fn bytes(&mut self, len: u32) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(len.min(64 << 10) as usize);
        (&mut *self.inner).take(u64::from(len)).read_to_end(&mut bytes)?;
        if bytes.len() != len as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.crc.update(&bytes);
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        let mut state = State::new();
        for number in 0..20_i64 {
            let item = Item {
                create_revision: 2 + number,
                mod_revision: 30,
                version: 1 + number,
                value: Bytes::from(vec![7; number as usize]),
            };
            state.insert(Bytes::from(format!("key/{number:02}")), item);
        }
        state.set_revision(31);
        state
    }

    fn image(state: &State) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(state, 99, &mut bytes).expect("memory");
        bytes
    }

    #[test]
    fn image_reads_back_as_it_was() {
        let state = sample();
        let (again, digest) = read(&mut image(&state).as_slice()).expect("whole");
        assert_eq!(
            (digest, again.revision(), again.bytes()),
            (99, state.revision(), state.bytes())
        );
        assert!(again.iter().eq(state.iter()));
        assert_eq!(image(&again), image(&state), "equal states, equal bytes");
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let whole = image(&sample());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&mut bytes.as_slice()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_any_addition_is_refused() {
        let mut whole = image(&sample());
        for len in 0..whole.len() {
            assert!(read(&mut &whole[..len]).is_err(), "cut at {len}");
        }
        whole.push(0);
        assert!(read(&mut whole.as_slice()).is_err());
    }

    #[test]
    fn newer_format_is_named() {
        let mut bytes = image(&sample());
        bytes[6] = 2;
        assert!(matches!(read(&mut bytes.as_slice()), Err(ImageError::UnknownVersion(2))));
    }
}
