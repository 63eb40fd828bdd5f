//! raft-rs's messages as prost structs of our own, with every number checked.
//!
//! Entries travel as columns: their indexes follow one another, so one number stands for all of them, and a gap
//! cannot even be written down.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::{MAX_ENTRIES, MAX_HEAD, WireError, limit, route};
use crate::convert;

/// A `Message` without the data of its entries. Numbers of fields shared with `eraftpb.Message` are the same.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Head {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    log_term: u64,
    #[prost(uint64, tag = "6")]
    index: u64,
    #[prost(message, optional, tag = "7")]
    entries: Option<Entries>,
    #[prost(uint64, tag = "8")]
    commit: u64,
    #[prost(message, optional, tag = "9")]
    snapshot: Option<Snapshot>,
    #[prost(bool, tag = "10")]
    reject: bool,
    #[prost(uint64, tag = "11")]
    reject_hint: u64,
    #[prost(bytes = "bytes", tag = "12")]
    context: Bytes,
    #[prost(uint64, tag = "13")]
    request_snapshot: u64,
    #[prost(uint64, tag = "15")]
    commit_term: u64,
    #[prost(int64, tag = "16")]
    priority: i64,
}

/// One column per field; all of the same length.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entries {
    /// Index of the first; the others follow.
    #[prost(uint64, tag = "1")]
    first_index: u64,
    /// One byte each.
    #[prost(bytes = "bytes", tag = "2")]
    kinds: Bytes,
    #[prost(uint64, repeated, tag = "3")]
    terms: Vec<u64>,
    /// Bytes of data; an entry without data has no payload.
    #[prost(uint32, repeated, tag = "4")]
    lens: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Snapshot {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(message, optional, tag = "2")]
    conf_state: Option<oarlock_membership::record::ConfState>,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
}

pub(super) fn split(message: &Message) -> Result<(Head, Vec<Bytes>), WireError> {
    let kind = message.get_msg_type();
    if route(kind).is_none() {
        return Err(WireError::NotForTheWire(name(kind)));
    }
    let (entries, payloads) = split_entries(message.get_entries())?;
    let snapshot = message.has_snapshot().then(|| {
        let snapshot = message.get_snapshot();
        let metadata = snapshot.get_metadata();
        Snapshot {
            data: convert::from_raft(snapshot.data.clone()),
            conf_state: metadata
                .has_conf_state()
                .then(|| convert::conf_state_to_record(metadata.get_conf_state())),
            index: metadata.index,
            term: metadata.term,
        }
    });
    let head = Head {
        kind: number(kind),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries,
        commit: message.commit,
        snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: convert::from_raft(message.context.clone()),
        request_snapshot: message.request_snapshot,
        commit_term: message.commit_term,
        priority: message.priority,
    };
    Ok((head, payloads))
}

fn split_entries(entries: &[Entry]) -> Result<(Option<Entries>, Vec<Bytes>), WireError> {
    let Some(first) = entries.first() else { return Ok((None, Vec::new())) };
    limit("message in entries", entries.len(), MAX_ENTRIES)?;
    let mut columns = Entries { first_index: first.index, ..Entries::default() };
    let mut kinds = Vec::with_capacity(entries.len());
    let mut payloads = Vec::with_capacity(entries.len());
    for (expected, entry) in (first.index..).zip(entries) {
        if entry.index != expected {
            return Err(WireError::NotContiguous { found: entry.index, expected });
        }
        if !entry.context.is_empty() {
            return Err(WireError::EntryContext { index: entry.index });
        }
        let len = u32::try_from(entry.data.len()).map_err(|_| WireError::TooLarge {
            what: "entry",
            size: entry.data.len() as u64,
            limit: u64::from(u32::MAX),
        })?;
        kinds.push(convert::entry_kind_to_number(entry.get_entry_type()));
        columns.terms.push(entry.term);
        columns.lens.push(len);
        if len > 0 {
            payloads.push(convert::from_raft(entry.data.clone()));
        }
    }
    columns.kinds = kinds.into();
    Ok((Some(columns), payloads))
}

pub(super) fn join(head: Head, payloads: Vec<Bytes>) -> Result<Message, WireError> {
    let mut message = Message::default();
    message.set_msg_type(kind(head.kind)?);
    message.to = head.to;
    message.from = head.from;
    message.term = head.term;
    message.log_term = head.log_term;
    message.index = head.index;
    message.commit = head.commit;
    message.reject = head.reject;
    message.reject_hint = head.reject_hint;
    message.set_context(convert::to_raft(head.context));
    message.request_snapshot = head.request_snapshot;
    message.commit_term = head.commit_term;
    message.priority = head.priority;
    let entries = join_entries(head.entries.unwrap_or_default(), payloads)?;
    message.set_entries(convert::list_to_raft(entries));
    if let Some(snapshot) = head.snapshot {
        let into = message.mut_snapshot();
        into.set_data(convert::to_raft(snapshot.data));
        let metadata = into.mut_metadata();
        metadata.index = snapshot.index;
        metadata.term = snapshot.term;
        if let Some(conf_state) = snapshot.conf_state {
            metadata.set_conf_state(convert::conf_state_from_record(conf_state));
        }
    }
    Ok(message)
}

fn join_entries(columns: Entries, payloads: Vec<Bytes>) -> Result<Vec<Entry>, WireError> {
    let Entries { first_index, kinds, terms, lens } = columns;
    limit("message in entries", kinds.len(), MAX_ENTRIES)?;
    if terms.len() != kinds.len() || lens.len() != kinds.len() {
        return Err(WireError::Unknown { what: "number of columns", number: terms.len() as u64 });
    }
    if first_index.checked_add(kinds.len() as u64).is_none() {
        return Err(WireError::Unknown { what: "index", number: first_index });
    }
    expect_payloads(&payloads, lens.iter().map(|&len| u64::from(len)).sum())?;
    let mut payloads = payloads.into_iter();
    let mut entries = Vec::with_capacity(kinds.len());
    for ((index, kind), (term, len)) in (first_index..).zip(kinds).zip(terms.into_iter().zip(lens))
    {
        let mut entry = Entry::default();
        entry.set_entry_type(entry_kind(kind)?);
        entry.index = index;
        entry.term = term;
        if len > 0 {
            let data = payloads.next().unwrap_or_default();
            if data.len() as u64 != u64::from(len) {
                let (announced, found) = (u64::from(len), data.len() as u64);
                return Err(WireError::Payloads { announced, found });
            }
            entry.set_data(convert::to_raft(data));
        }
        entries.push(entry);
    }
    match payloads.next() {
        None => Ok(entries),
        Some(extra) => Err(WireError::Payloads { announced: 0, found: extra.len() as u64 }),
    }
}

pub(super) fn expect_payloads(payloads: &[Bytes], announced: u64) -> Result<(), WireError> {
    let found = payloads.iter().map(|payload| payload.len() as u64).sum();
    if found != announced {
        return Err(WireError::Payloads { announced, found });
    }
    Ok(())
}

fn entry_kind(number: u8) -> Result<EntryType, WireError> {
    convert::entry_kind_from_number(number)
        .ok_or(WireError::Unknown { what: "kind of entry", number: u64::from(number) })
}

/// Every type that travels, with its number (that of `eraftpb`) and name.
const KINDS: [(MessageType, u32, &str); 12] = [
    (MessageType::MsgAppend, 3, "MsgAppend"),
    (MessageType::MsgAppendResponse, 4, "MsgAppendResponse"),
    (MessageType::MsgRequestVote, 5, "MsgRequestVote"),
    (MessageType::MsgRequestVoteResponse, 6, "MsgRequestVoteResponse"),
    (MessageType::MsgSnapshot, 7, "MsgSnapshot"),
    (MessageType::MsgHeartbeat, 8, "MsgHeartbeat"),
    (MessageType::MsgHeartbeatResponse, 9, "MsgHeartbeatResponse"),
    (MessageType::MsgTimeoutNow, 14, "MsgTimeoutNow"),
    (MessageType::MsgReadIndex, 15, "MsgReadIndex"),
    (MessageType::MsgReadIndexResp, 16, "MsgReadIndexResp"),
    (MessageType::MsgRequestPreVote, 17, "MsgRequestPreVote"),
    (MessageType::MsgRequestPreVoteResponse, 18, "MsgRequestPreVoteResponse"),
];

fn number(kind: MessageType) -> u32 {
    KINDS.iter().find(|(known, ..)| *known == kind).map_or(0, |(_, number, _)| *number)
}

fn kind(number: u32) -> Result<MessageType, WireError> {
    KINDS
        .iter()
        .find(|(_, known, _)| *known == number)
        .map(|(kind, ..)| *kind)
        .ok_or(WireError::Unknown { what: "type of message", number: u64::from(number) })
}

pub(super) fn name(kind: MessageType) -> &'static str {
    KINDS.iter().find(|(known, ..)| *known == kind).map_or("a local message", |(.., name)| *name)
}

// The head of the largest message fits: kind, a long term and a length per entry.
const _: () = assert!(MAX_ENTRIES * (1 + 9 + 4) < MAX_HEAD);
