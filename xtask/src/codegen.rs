//! `codegen`: the checked-in Rust of the server's `.proto` files, written anew without `protoc`.

use std::{error::Error, fs, path::Path};

const PROTO_DIR: &str = "crates/server/proto";
const OUT_DIR: &str = "crates/server/src/pb";
const FILES: [&str; 3] = ["mvcc.proto", "rpc.proto", "command.proto"];

/// Parses the `.proto` files under `root` (the workspace) and writes messages, servers and clients to the server's
/// `src/pb`; with `check` set, writes nothing and fails if what is checked in differs.
///
/// # Errors
/// A `.proto` file that does not parse, a folder that cannot be read or written, or (with `check`) stale code.
pub(crate) fn run(root: &Path, check: bool) -> Result<(), Box<dyn Error>> {
    let proto = root.join(PROTO_DIR);
    let descriptors = protox::compile(FILES.map(|file| proto.join(file)), [&proto])?;
    let fresh = root.join("target/codegen");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?; // a package that was renamed leaves nothing behind
    }
    fs::create_dir_all(&fresh)?;
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(&fresh)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    for entry in fs::read_dir(&fresh)? {
        let generated = entry?;
        let code = fs::read_to_string(generated.path())?;
        let target = root.join(OUT_DIR).join(generated.file_name());
        let known = fs::read_to_string(&target).unwrap_or_default();
        if code == known {
            continue;
        }
        if check {
            return Err(format!("{} is stale: run `cargo xtask codegen`", target.display()).into());
        }
        fs::write(&target, code)?;
    }
    Ok(())
}
