//! Small workspaces with a fault in them, for the self-tests of the checks.

use crate::sh;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that is gone when this is dropped.
pub(super) struct Planted {
    dir: PathBuf,
}

impl Planted {
    /// An empty git repository. `name` must differ from that of every other test.
    pub(super) fn empty(name: &str) -> Self {
        let dir = sh::target_dir(&sh::root())
            .join("planted")
            .join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("target/ is writable");
        sh::capture(Command::new("git").current_dir(&dir).args(["init", "--quiet"])).expect("git");
        Self { dir }
    }

    /// A workspace of one library crate with this source.
    pub(super) fn package(name: &str, source: &str) -> Self {
        Self::empty(name).with("src/lib.rs", source).with(
            "Cargo.toml",
            &format!("[package]\nname = \"planted-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n"),
        )
    }

    /// The same with one more file, known to git.
    pub(super) fn with(self, path: &str, text: &str) -> Self {
        let file = self.dir.join(path);
        fs::create_dir_all(file.parent().expect("inside the directory"))
            .expect("target/ is writable");
        fs::write(&file, text).expect("target/ is writable");
        sh::capture(Command::new("git").current_dir(&self.dir).args([
            "add",
            "--intent-to-add",
            path,
        ]))
        .expect("git");
        self
    }

    pub(super) fn root(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
