//! Reading a snapshot: nothing is given out that was not verified.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use super::format::{self, BadHeader, CHUNK, CHUNK_HEAD, FOOTER, HEADER, Key};
use super::store::Pin;
use super::{Damage, Error, SnapshotFile};
use crate::vfs::{Access, File, Vfs};

/// Streams the content of a snapshot file, chunk by chunk, each verified before its first byte is given out; the last
/// only after the whole was compared with the footer. Errors of `Read` have kind `InvalidData` and an [`Error`] inside.
///
/// While it lives, the file is not purged.
#[derive(Debug)]
pub struct SnapshotReader {
    file: Box<dyn File>,
    path: PathBuf,
    key: Key,
    about: SnapshotFile,
    /// Where the next chunk begins in the file, and how much of the content is behind it.
    offset: u64,
    left: u64,
    crc: crc32fast::Hasher,
    chunk: Vec<u8>,
    given: usize,
    _pin: Option<Pin>,
}

impl SnapshotReader {
    /// Opens a snapshot file by its path, for tools: the name is not looked at, and nothing keeps it from being purged
    /// (which, once it is open, does not hurt).
    ///
    /// # Errors
    /// [`Error::Corrupt`] if header, footer and length do not fit; [`Error::UnknownVersion`]; [`Error::Io`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, Error> {
        let file = vfs.open(path, Access::Read).map_err(Error::io("open", path))?;
        let len = file.len().map_err(Error::io("read the length of", path))?;
        let corrupt = |offset, damage| Error::Corrupt { path: path.to_owned(), offset, damage };
        let Some(end) = len.checked_sub(FOOTER as u64).filter(|end| *end >= HEADER as u64) else {
            return Err(corrupt(0, Damage::Length { found: len }));
        };
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(Error::io("read", path))?;
        let (id, key) = format::parse_header(&header).map_err(|bad| match bad {
            BadHeader::Magic => corrupt(0, Damage::Magic),
            BadHeader::Checksum => corrupt(0, Damage::Header),
            BadHeader::Version(version) => Error::UnknownVersion { path: path.to_owned(), version },
        })?;
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, end).map_err(Error::io("read", path))?;
        let (content, crc) =
            key.parse_footer(end, &footer).ok_or_else(|| corrupt(end, Damage::Footer))?;
        if format::file_len(content) != Some(len) {
            return Err(corrupt(end, Damage::Length { found: len }));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            key,
            about: SnapshotFile { id, len: content, crc },
            offset: HEADER as u64,
            left: content,
            crc: crc32fast::Hasher::new(),
            chunk: Vec::new(),
            given: 0,
            _pin: None,
        })
    }

    /// Opens the file of the pinned snapshot.
    pub(super) fn pinned(vfs: &dyn Vfs, path: &Path, pin: Pin) -> Result<Self, Error> {
        let mut reader = Self::open(vfs, path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Error::NotFound { id: pin.id() }
            }
            error => error,
        })?;
        let found = reader.about.id;
        if found != pin.id() {
            return Err(Error::Corrupt {
                path: reader.path,
                offset: 0,
                damage: Damage::WrongId { found },
            });
        }
        reader._pin = Some(pin);
        Ok(reader)
    }

    /// The snapshot's id, and the length and checksum of its whole content, which a receiver compares.
    #[must_use]
    pub fn file(&self) -> SnapshotFile {
        self.about
    }

    /// The index of the last entry it replaces.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.about.id.index
    }

    /// The term of that entry.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.about.id.term
    }

    /// The length of the whole content in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.about.len
    }

    /// Whether there is no content at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.about.len == 0
    }

    /// Reads what is left of the content and says what the file is: `Ok` means that every byte of what was read, by
    /// this and before, is what was written.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the place of the first damage; [`Error::Io`].
    pub fn verify(mut self) -> Result<SnapshotFile, Error> {
        while self.left > 0 {
            self.next_chunk()?;
        }
        self.whole(&self.crc)?;
        Ok(self.about)
    }

    fn next_chunk(&mut self) -> Result<(), Error> {
        let len = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
        // Taken, so that nothing of it is given out should this fail half-way.
        let mut chunk = std::mem::take(&mut self.chunk);
        self.given = 0;
        chunk.resize(CHUNK_HEAD + len, 0);
        self.file.read_exact_at(&mut chunk, self.offset).map_err(Error::io("read", &self.path))?;
        let (head, data) = chunk.split_at(CHUNK_HEAD);
        let mut data_crc = crc32fast::Hasher::new();
        data_crc.update(data);
        if *head != self.key.chunk_head(self.offset, len, data_crc.clone().finalize()) {
            return Err(self.corrupt(self.offset, Damage::Chunk));
        }
        let mut crc = self.crc.clone();
        crc.combine(&data_crc);
        if self.left == len as u64 {
            self.whole(&crc)?;
        }
        self.crc = crc;
        self.offset += chunk.len() as u64;
        self.left -= len as u64;
        self.given = CHUNK_HEAD;
        self.chunk = chunk;
        Ok(())
    }

    fn whole(&self, crc: &crc32fast::Hasher) -> Result<(), Error> {
        if crc.clone().finalize() == self.about.crc {
            Ok(())
        } else {
            Err(self.corrupt(self.offset, Damage::Content))
        }
    }

    fn corrupt(&self, offset: u64, damage: Damage) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, damage }
    }
}

impl BufRead for SnapshotReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.given >= self.chunk.len() && self.left > 0 {
            self.next_chunk()?;
        }
        Ok(self.chunk.get(self.given..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.given = self.given.saturating_add(count).min(self.chunk.len());
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
