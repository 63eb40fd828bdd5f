//! Scenario files: commands and what they print.

use std::fmt::Write as _;
use std::path::Path;

use super::Script;

/// Runs a scenario file and compares what it prints with what the file says.
///
/// With `OARLOCK_REWRITE` set in the environment the file is written anew instead, and only a command that fails is an
/// error.
///
/// # Errors
/// The first difference with its line, a command that makes no sense, or an invariant that does not hold.
pub fn check_file(path: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let found = replay(&text).map_err(|error| format!("{name}:{error}"))?;
    if std::env::var_os("OARLOCK_REWRITE").is_some() {
        if found != text {
            std::fs::write(path, found).map_err(|error| format!("{name}: {error}"))?;
        }
        return Ok(());
    }
    let mut command = "";
    let (mut expected, mut printed) = (text.lines(), found.lines());
    for line in 1.. {
        let pair = (expected.next(), printed.next());
        let (Some(expected), Some(printed)) = pair else {
            return match pair {
                (None, None) => Ok(()),
                (expected, printed) => Err(difference(&name, line, command, expected, printed)),
            };
        };
        if expected != printed {
            return Err(difference(&name, line, command, Some(expected), Some(printed)));
        }
        if expected.starts_with("> ") {
            command = expected;
        }
    }
    Ok(())
}

fn difference(
    name: &str,
    line: usize,
    command: &str,
    expected: Option<&str>,
    printed: Option<&str>,
) -> String {
    let or_end = |line: Option<&str>| line.unwrap_or("(the end)").to_owned();
    format!(
        "{name}:{line}: after `{command}`\n  expected: {}\n   printed: {}\n(OARLOCK_REWRITE=1 accepts what is printed)",
        or_end(expected),
        or_end(printed)
    )
}

/// The file with the output of its commands replaced by what they print now.
fn replay(text: &str) -> Result<String, String> {
    let mut script = Script::new();
    let mut result = String::new();
    let mut in_output = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(commands) = line.strip_prefix("> ") {
            let _ = writeln!(result, "{line}");
            let run = std::panic::AssertUnwindSafe(|| {
                commands.split(';').try_fold(String::new(), |printed, command| {
                    script.run(command.trim()).map(|output| printed + &output)
                })
            });
            let printed = match std::panic::catch_unwind(run) {
                Ok(Ok(printed)) => printed,
                Ok(Err(error)) => return Err(format!("{}: {error}", number + 1)),
                Err(_) => return Err(format!("{}: `{commands}` panics", number + 1)),
            };
            for line in printed.lines() {
                let _ = writeln!(result, "  {line}");
            }
            in_output = true;
        } else if in_output && line.starts_with("  ") {
            // What it printed before.
        } else {
            in_output = false;
            let _ = writeln!(result, "{line}");
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaying_what_was_written_changes_nothing() {
        let once = replay("# text\n\n> nodes 1 2 3; elect 1\n  anything\n> log 2\n").expect("runs");
        assert!(once.contains("> log 2\n  2: log from 1: 1/1 add-voter 1, "), "{once}");
        assert!(!once.contains("anything"));
        assert_eq!(replay(&once).expect("runs"), once);
    }

    #[test]
    fn a_command_that_makes_no_sense_names_its_line() {
        assert_eq!(replay("\n> dance 1\n"), Err("2: `dance` is no command".into()));
    }
}
