//! Where the bytes of a segment come from while a log is read.

use bytes::Bytes;

use crate::Error;
use crate::segment::Segment;

/// Gives segments whole, one at a time.
#[derive(Debug)]
pub(super) enum Source {
    /// Views: no copy, no buffer. For whoever holds the log's lock, since then nobody writes meanwhile.
    Views(Bytes),
    /// Read calls into one buffer, as large as the largest segment: another process may be writing, and a bad disk is to
    /// be an error, not a signal.
    Calls(Vec<u8>),
}

impl Source {
    pub(super) fn read(&mut self, segment: &Segment) -> Result<&[u8], Error> {
        let len = segment.size as usize;
        match self {
            Self::Views(view) => {
                *view = segment.view(0, segment.size)?;
                Ok(view)
            }
            Self::Calls(buffer) => {
                if buffer.len() < len {
                    *buffer = vec![0; len];
                }
                segment.read(&mut buffer[..len], 0)?;
                Ok(&buffer[..len])
            }
        }
    }
}
