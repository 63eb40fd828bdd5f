//! raft-rs logs through slog; everybody else here through `log`.

use std::fmt::{self, Write};

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer};

use crate::hex::Hex;

/// A logger for raft-rs whose records go to `log`, under target `raft`.
///
/// `context` is added to every record, and to the text of raft-rs's panics; name the group and the member there. What
/// raft-rs logs at debug or trace is compiled out of release builds, unless the binary turns on slog's feature
/// `release_max_level_debug` or `_trace`.
///
/// raft-rs writes member ids in decimal, while `etcdctl` and everything here write them in hexadecimal. So that one
/// search finds a member in all lines, numbers of 16 digits or more are rewritten: nearly all ids that are derived from
/// a hash have that many (all but one in ten thousand), and no term or index ever has.
///
/// ```
/// use oarlock_raftnode::slog; // the version that raft-rs uses
/// let logger = oarlock_raftnode::raft_logger(slog::o!("member" => "8e9e05c52164694d"));
/// slog::info!(logger, "became follower"; "term" => 7); // raft: became follower, term: 7, member: 8e9e…
/// ```
pub fn raft_logger<T>(context: slog::OwnedKV<T>) -> Logger
where
    T: slog::SendSyncRefUnwindSafeKV + 'static,
{
    Logger::root(ToLog, context)
}

/// Where the records of [`raft_logger`] arrive.
const TARGET: &str = "raft";

struct ToLog;

impl Drain for ToLog {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let level = level(record.level());
        let metadata = log::Metadata::builder().level(level).target(TARGET).build();
        // Ask before formatting: raft-rs is talkative.
        if level > log::max_level() || !log::logger().enabled(&metadata) {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // A value that cannot be formatted is left out; the message itself is worth more.
        let _ = record.kv().serialize(record, &mut line);
        let _ = values.serialize(record, &mut line);
        let text = with_hex_ids(&line.0);
        log::logger().log(
            &log::Record::builder()
                .metadata(metadata)
                .args(format_args!("{text}"))
                .module_path_static(Some(record.module()))
                .file_static(Some(record.file()))
                .line(Some(record.line()))
                .build(),
        );
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        self::level(level) <= log::max_level()
    }
}

/// The shortest decimal number that can only be an id.
const ID_DIGITS: usize = 16;

/// `text` with ids in hexadecimal.
fn with_hex_ids(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let (digits, after) =
            from.split_at(from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len()));
        // As part of a word or of a fraction it is no id.
        let own = !before.ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_')
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        out.push_str(before);
        match digits.parse::<u64>() {
            Ok(id) if own && digits.len() >= ID_DIGITS => out.push_str(&Hex(id).to_string()),
            _ => out.push_str(digits),
        }
        rest = after;
    }
    out + rest
}

const fn level(level: Level) -> log::Level {
    match level {
        Level::Critical | Level::Error => log::Level::Error,
        Level::Warning => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
        Level::Trace => log::Level::Trace,
    }
}

/// A message, to which `, key: value` is added for each pair.
struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, ", {key}: {value}")?)
    }
}
