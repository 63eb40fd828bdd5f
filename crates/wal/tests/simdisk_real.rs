//! While nothing crashes, the simulated disk and the operating system answer alike.
#![cfg(feature = "testing")]

use std::io;
use std::path::{Path, PathBuf};

use oarlock_wal::testing::SimDisk;
use oarlock_wal::vfs::{Access, File};
use oarlock_wal::{RealVfs, Vfs};

/// One of the two, with the files that were opened on it.
struct Side {
    vfs: Box<dyn Vfs>,
    dir: PathBuf,
    files: Vec<(Box<dyn File>, Access)>,
}

impl Side {
    fn new(vfs: impl Vfs, dir: &Path) -> Self {
        vfs.create_dir_all(dir).expect("creates");
        Self { vfs: Box::new(vfs), dir: dir.to_owned(), files: Vec::new() }
    }

    /// What one random operation answers, as text. Both sides get equal generators.
    fn step(&mut self, rng: &mut fastrand::Rng) -> String {
        let path = |rng: &mut fastrand::Rng| self.dir.join(["a", "b", "c", "d"][rng.usize(..4)]);
        let (offset, len) = (rng.u64(..3000), rng.usize(1..1500));
        let action = rng.u8(..12);
        let mut access = Access::ReadWrite;
        let opened = match action {
            0 => self.vfs.create_new(&path(rng)),
            1 => {
                access = if rng.bool() { Access::Read } else { Access::ReadWrite };
                self.vfs.open(&path(rng), access)
            }
            2 => return said(self.vfs.rename(&path(rng), &path(rng))),
            3 => return said(self.vfs.remove(&path(rng))),
            4 => {
                let names = self.vfs.list(&self.dir).map(|mut names| {
                    names.sort();
                    names
                });
                return said(names);
            }
            5 => return said(self.vfs.sync_dir(&self.dir)),
            _ => {
                let file = rng.usize(..self.files.len().max(1));
                let fill = rng.u8(..);
                let Some((file, access)) = self.files.get(file) else { return String::new() };
                // A reader of a file that has another name by now is shown nothing: it may be written over.
                let action = if action == 9 && *access == Access::Read { 8 } else { action };
                return match action {
                    6 | 7 => match file.write_all_at(&vec![fill; len], offset) {
                        Err(_) => "refused".into(), // EBADF has no kind of its own
                        Ok(()) => "written".into(),
                    },
                    8 => {
                        let mut buf = vec![0; len];
                        said(file.read_exact_at(&mut buf, offset).map(|()| buf))
                    }
                    9 => said(file.view(offset, len)),
                    // Only to grow: a file that was viewed is not cut off through another handle.
                    10 => match file.len().and_then(|len| file.set_len(len.max(offset))) {
                        Err(_) => "refused".into(),
                        Ok(()) => "grown".into(),
                    },
                    _ => said(file.sync_data().and_then(|()| file.len())),
                };
            }
        };
        said(opened.map(|file| self.files.push((file, access))))
    }
}

fn said<T: std::fmt::Debug>(answer: io::Result<T>) -> String {
    format!("{:?}", answer.map_err(|e| e.kind()))
}

#[test]
fn any_sequence_of_operations_gets_the_same_answers() {
    for seed in 0..60 {
        let tmp = tempfile::tempdir().expect("tempdir");
        let mut real = Side::new(RealVfs, &tmp.path().join("x/y"));
        let mut sim = Side::new(SimDisk::new(), Path::new("/x/y"));
        let (mut here, mut there) =
            (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed));
        for step in 0..200 {
            assert_eq!(sim.step(&mut here), real.step(&mut there), "seed {seed}, step {step}");
        }
    }
}
