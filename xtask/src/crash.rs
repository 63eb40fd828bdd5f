//! `cargo xtask crash`: the release binary under load and `kill -9`. The loop itself is in `oarlock-tests`, where the
//! client is; the cluster tests run the same loop, shorter.

use crate::sh;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let root = sh::root();
    sh::run(sh::cargo(&root).args([
        "build",
        "--release",
        "--package",
        "oarlock-server",
        "--bin",
        "oarlock",
    ]))?;
    let server = sh::target_dir(&root).join("release/oarlock");
    let loop_args = ["run", "--quiet", "--package", "oarlock-tests", "--bin", "crash", "--"];
    sh::run(sh::cargo(&root).args(loop_args).arg("--server").arg(server).args(args))
}
