//! `oarlock` with the failpoints of `oarlock-raftnode`, for tests that kill a real server at each of them.
//!
//! Takes the flags of `oarlock`. What the variable `FAILPOINTS` says holds from the first instant
//! (`raftBeforeSave=return(abort)`, more than one with semicolons between them); a line of this form on standard input
//! sets one of them later.
#![forbid(unsafe_code)]

use std::{io, process::ExitCode, thread};

fn main() -> ExitCode {
    let _scenario = fail::FailScenario::setup();
    if let Err(error) = thread::Builder::new().name("oarlock-failpoints".into()).spawn(listen) {
        log::error!(error:%; "no failpoint can be set from standard input");
    }
    oarlock_server::main()
}

fn listen() {
    for line in io::stdin().lines().map_while(Result::ok) {
        let set = line.split_once('=').map(|(point, actions)| fail::cfg(point, actions));
        match set {
            Some(Ok(())) => log::info!(line; "failpoint set"),
            Some(Err(error)) => log::error!(line, error; "no failpoint is set"),
            None => log::error!(line; "no failpoint is set: there is no equals sign"),
        }
    }
}
