//! Two members with a bad network between them: what is promised of a lane holds all the same.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_transport::{
    Envelope, Identity, Lane, Shed, SnapshotEnvelope, SnapshotSendError, TcpOptions, TcpTransport,
    Transport,
};
use parking_lot::Mutex;

use crate::common::proxy::{Proxy, Way};
use crate::common::{BOUND, Event, Outcome, Recorder, envelope, eventually, outcome};

const CLUSTER: u64 = 0xc1;
const IDLE: Duration = Duration::from_millis(500);

fn options() -> TcpOptions {
    TcpOptions::new()
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .handshake_timeout(4 * IDLE)
        .idle_timeout(IDLE)
        .write_timeout(IDLE)
}

/// Member 1 reaches member 2 through a proxy; 2 does not dial.
struct Pair {
    one: TcpTransport,
    first: Arc<Recorder>,
    two: TcpTransport,
    second: Arc<Recorder>,
    proxy: Proxy,
}

impl Pair {
    fn new(options: &TcpOptions) -> Self {
        let member = |id| {
            let identity = Identity::new(id, CLUSTER);
            let transport = TcpTransport::bind(identity, "127.0.0.1:0", options.clone());
            let (transport, handler) = (transport.expect("a free port"), Recorder::new());
            transport.start(handler.clone()).expect("started");
            (transport, handler)
        };
        let ((one, first), (two, second)) = (member(1), member(2));
        let proxy = Proxy::to(two.local_addrs()[0]);
        one.add_peer(2, &[proxy.url()]).expect("a good url");
        let pair = Self { one, first, two, second, proxy };
        pair.connected();
        pair
    }

    fn connected(&self) {
        eventually("connecting", || self.one.active_since(2).is_some());
    }

    /// A message gets through, in the end.
    fn gets_through(&self, what: &'static str) {
        eventually(what, || {
            Lane::ALL.iter().for_each(|&lane| self.one.send(vec![envelope(2, lane, what)]));
            Lane::ALL.iter().all(|lane| self.second.heads(*lane).iter().any(|head| head == what))
        });
    }

    fn begin_snapshot(&self, len: u64, content: impl Read + Send + 'static) -> Outcome {
        let (done, outcome) = outcome();
        let envelope = SnapshotEnvelope { to: 2, head: Bytes::from_static(b"meta"), len };
        self.one.send_snapshot(envelope, Box::new(content), done);
        outcome
    }
}

/// Envelope `number`, whose content follows from it.
fn numbered(number: u32, lane: Lane) -> Envelope {
    let payload = Bytes::from(vec![number as u8; number as usize * 31 % 3000]);
    Envelope { payloads: vec![payload], ..envelope(2, lane, number.to_be_bytes().to_vec()) }
}

/// What arrived of them on each lane, each intact; `seed` is for the report.
#[track_caller]
fn intact_and_in_order(events: &[Event], seed: u64) -> usize {
    let mut last = [None; 2];
    let mut count = 0;
    for event in events {
        let Event::Received { lane, head, payloads, .. } = event else { continue };
        let Ok(number) = <[u8; 4]>::try_from(&head[..]).map(u32::from_be_bytes) else { continue };
        assert_eq!(payloads, &numbered(number, *lane).payloads, "{number}, seed {seed}");
        let before = last[*lane as usize].replace(number);
        assert!(before < Some(number), "{number} after {before:?} on {lane:?}, seed {seed}");
        count += 1;
    }
    count
}

/// Sends numbered envelopes on both lanes, while `harm` does something now and then.
fn send_while(pair: &Pair, rng: &mut fastrand::Rng, mut harm: impl FnMut(&mut fastrand::Rng)) {
    for burst in 0..60 {
        let numbers = burst * 50..(burst + 1) * 50;
        pair.one.send(numbers.map(|n| numbered(n, Lane::ALL[n as usize % 2])).collect());
        if burst % 4 == 1 {
            harm(rng);
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..4000)));
    }
}

/// Every envelope that was given to a transport was sent or dropped, and it says so.
fn all_are_accounted_for(pair: &Pair, given: u64) {
    eventually("accounting for all", || {
        let stats = pair.one.stats().peers[&2].clone();
        stats.sent_frames + stats.dropped == given
    });
}

#[test]
fn through_cuts_what_arrives_is_in_order_and_nothing_twice() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let pair = Pair::new(&options());
    send_while(&pair, &mut rng, |_| pair.proxy.cut());
    all_are_accounted_for(&pair, 3000);
    pair.gets_through("the end");
    let count = intact_and_in_order(&pair.second.events(), seed);
    assert!(count > 0, "seed {seed}");
    assert!(pair.one.stats().peers[&2].connects > 4, "it was cut again and again, seed {seed}");
}

/// N3: TCP's own checksum misses one in 65,536.
#[test]
fn a_flipped_bit_ends_the_connection_and_never_reaches_the_handler() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let pair = Pair::new(&options());
    send_while(&pair, &mut rng, |rng| {
        if pair.proxy.has_flipped() {
            pair.proxy.flip(Way::There, rng.usize(0..60_000));
        }
    });
    eventually("all has flipped", || {
        pair.one.send(vec![envelope(2, Lane::Append, vec![0; 5000])]);
        pair.proxy.has_flipped()
    });
    pair.gets_through("the end");
    assert!(intact_and_in_order(&pair.second.events(), seed) > 0, "seed {seed}");
    let faults = pair.two.stats().faults;
    assert!(faults.values().sum::<u64>() > 0, "{faults:?}, seed {seed}");
}

/// On the way back there are only signs of life and refusals; they are checked like everything else.
#[test]
fn a_flipped_bit_on_the_way_back_is_noticed_too() {
    let pair = Pair::new(&options());
    pair.proxy.flip(Way::Back, 5);
    pair.first.wait_unreachable(2);
    eventually("counting", || pair.one.stats().faults.values().sum::<u64>() > 0);
    pair.gets_through("the end");
}

/// A cable pulled out: nobody is told, and both sides must find out by themselves.
#[test]
fn a_half_open_connection_is_given_up_by_both_sides() {
    let pair = Pair::new(&options());
    eventually("both lanes", || pair.two.stats().admitted == 2);
    pair.proxy.swallow(&[Way::There, Way::Back]);
    let start = Instant::now();
    pair.first.wait_unreachable(2);
    eventually("the dialler gives up", || pair.one.active_since(2).is_none());
    eventually("the acceptor gives up", || pair.two.stats().admitted == 0);
    assert!(start.elapsed() < 20 * IDLE, "{:?}", start.elapsed());
    pair.proxy.heal();
    pair.gets_through("after it");
}

/// N1, one way: whoever hears nothing back cannot know that it is heard.
#[test]
fn silence_one_way_is_noticed_by_the_dialler_either_way() {
    for way in [Way::There, Way::Back] {
        let pair = Pair::new(&options());
        pair.proxy.swallow(&[way]);
        pair.first.wait_unreachable(2);
        eventually("giving up", || pair.one.active_since(2).is_none());
        pair.proxy.heal();
        pair.gets_through("after it");
    }
}

/// A frame that takes longer than the idle timeout is no silence, on either side.
#[test]
fn a_slow_link_is_not_a_dead_one() {
    let pair = Pair::new(&options());
    eventually("both lanes", || pair.one.stats().peers[&2].connects == 2);
    pair.proxy.rate(4 << 20);
    pair.proxy.delay(Duration::from_millis(1));
    let start = Instant::now();
    let bulk = Bytes::from(vec![7; 8 << 20]);
    pair.one.send(vec![Envelope { payloads: vec![bulk], ..envelope(2, Lane::Append, "bulk") }]);
    pair.one.send(vec![envelope(2, Lane::Message, "heartbeat")]);
    pair.second.wait_received(1);
    assert_eq!(pair.second.heads(Lane::Message), ["heartbeat"], "it does not wait for the bulk");
    pair.second.wait_received(2);
    assert!(start.elapsed() > 3 * IDLE, "too fast to mean anything: {:?}", start.elapsed());
    let stats = pair.one.stats().peers[&2].clone();
    assert_eq!((stats.connects, stats.dropped), (2, 0), "without a break");
}

/// A receiver that has stopped, but not gone: memory and the time of `send` stay bounded.
#[test]
fn a_receiver_that_reads_no_more_costs_no_more_than_a_queue() {
    let options = options().queue(64, 1 << 20).max_frame(64 << 10).write_timeout(IDLE / 5);
    let pair = Pair::new(&options);
    pair.proxy.stall(Way::There);
    let payload = Bytes::from(vec![1; 60 << 10]);
    let start = Instant::now();
    for _ in 0..100 {
        let payloads = vec![payload.clone()];
        pair.one.send(vec![Envelope { payloads, ..envelope(2, Lane::Append, "bulk") }; 10]);
        std::thread::sleep(Duration::from_millis(2)); // what the socket still takes, it shall get
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    pair.first.wait_unreachable(2);
    assert!(pair.one.stats().peers[&2].dropped > 500);
    all_are_accounted_for(&pair, 1000);
    pair.proxy.heal();
    pair.gets_through("after it");
}

/// Gives bytes for ever, slowly, and says how often it did.
#[derive(Clone, Default)]
struct Endless(Arc<AtomicU64>);

impl Endless {
    fn is_on_its_way(&self) {
        eventually("sending some of it", || self.0.load(Ordering::Relaxed) > 64);
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(buffer.len().min(64 << 10))
    }
}

fn broken_snapshots(pair: &Pair) -> usize {
    let events = pair.second.events();
    events.iter().filter(|event| matches!(event, Event::BrokenSnapshot { .. })).count()
}

#[test]
fn a_snapshot_torn_or_damaged_on_its_way_is_not_accepted_and_the_next_one_is() {
    let pair = Pair::new(&options());
    let content = Endless::default();
    let running = pair.begin_snapshot(u64::MAX, content.clone());
    content.is_on_its_way();
    pair.proxy.cut();
    let result = running.get();
    let (lost, refused) = (
        matches!(result, Err(SnapshotSendError::Lost(_))),
        matches!(result, Err(SnapshotSendError::Refused(_))), // half a frame arrived, and was answered
    );
    assert!(lost || refused, "{result:?}");

    for after in [0, 100, 1 << 20, 2_500_000] {
        pair.connected();
        pair.proxy.flip(Way::There, after);
        let result = pair.begin_snapshot(3 << 20, Cursor::new(vec![9; 3 << 20])).get();
        // The flip may have met another connection.
        assert!(result.is_err() || pair.one.stats().peers[&2].connects > 2, "after {after}");
        eventually("it has flipped", || pair.proxy.has_flipped());
    }
    eventually("one that is whole", || {
        pair.begin_snapshot(3 << 20, Cursor::new(vec![9; 3 << 20])).get().is_ok()
    });
    let whole = |event: &Event| match event {
        Event::Snapshot { content, .. } => Some(content == &vec![9; 3 << 20]),
        _ => None,
    };
    assert!(pair.second.events().iter().filter_map(whole).all(|whole| whole));
}

/// Raft does not send to a follower for as long as a snapshot is on its way to it.
#[test]
fn a_receiver_that_vanishes_under_a_snapshot_is_noticed_soon() {
    let pair = Pair::new(&options());
    let content = Endless::default();
    let running = pair.begin_snapshot(u64::MAX, content.clone());
    content.is_on_its_way();
    pair.proxy.swallow(&[Way::There, Way::Back]);
    let start = Instant::now();
    let result = running.get();
    assert!(matches!(result, Err(SnapshotSendError::Lost(_))), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?} to notice", start.elapsed());
    eventually("the receiver notices", || broken_snapshots(&pair) == 1);
    pair.proxy.heal();

    // And at the end, when all is sent and only the verdict is missing.
    let (arrive, arrived) = sync_channel(0);
    let (release, held) = sync_channel::<()>(0);
    let (arrive, held) = (Mutex::new(arrive), Mutex::new(held));
    *pair.second.after_snapshot.lock() = Box::new(move || {
        let _ = arrive.lock().send(());
        let _ = held.lock().recv();
        Ok(())
    });
    let running = pair.begin_snapshot(3, Cursor::new(b"abc"));
    arrived.recv_timeout(BOUND).expect("all of it arrives");
    pair.proxy.swallow(&[Way::There, Way::Back]);
    let start = Instant::now();
    let result = running.get();
    assert!(matches!(result, Err(SnapshotSendError::Lost(_))), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?} to notice", start.elapsed());
    drop(release);
}

/// A disk may take its time: the receiver says meanwhile that it is there.
#[test]
fn a_receiver_that_stores_slowly_is_waited_for() {
    let pair = Pair::new(&options());
    let slow = || {
        std::thread::sleep(4 * IDLE);
        Ok(())
    };
    *pair.second.before_snapshot.lock() = Box::new(slow);
    *pair.second.after_snapshot.lock() = Box::new(slow);
    // More than the buffers on the way hold, so that the sender has to wait with most of it unsent.
    let len = 24 << 20;
    pair.begin_snapshot(len, io::repeat(3).take(len)).get().expect("it was only slow");
}

/// A disk on the other side likewise.
#[test]
fn a_sender_that_reads_its_content_slowly_is_waited_for() {
    let pair = Pair::new(&options());
    pair.begin_snapshot(3 << 20, Hesitating(0).take(3 << 20)).get().expect("it was only slow");
}

/// But not for ever: a snapshot that does not come on keeps others away.
#[test]
fn a_sender_that_says_only_that_it_is_there_is_given_up() {
    let pair = Pair::new(&options().snapshot_timeout(IDLE));
    let result = pair.begin_snapshot(3 << 20, Hesitating(0).take(3 << 20)).get();
    assert!(result.is_err(), "it took four times as long as it may");
    eventually("the receiver gives up", || broken_snapshots(&pair) == 1);
    assert!(pair.two.stats().faults.contains_key("timeout"));
}

/// Content whose second piece takes its time.
struct Hesitating(usize);

impl Read for Hesitating {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += 1;
        std::thread::sleep(if self.0 == 2 { 4 * IDLE } else { Duration::ZERO });
        Ok(buffer.len().min(1 << 20))
    }
}

/// A megabyte a second and connection, and sixteen of them in the way.
#[test]
fn heartbeats_pass_a_full_append_lane_over_a_slow_network() {
    let pair = Pair::new(&options());
    pair.proxy.rate(1 << 20);
    let bulk = Bytes::from(vec![7; 1 << 20]);
    let payloads = vec![bulk];
    let append = Envelope { payloads, ..envelope(2, Lane::Append, "bulk") };
    pair.one.send(vec![append; 16]);
    for number in 0..20u8 {
        let heartbeat = envelope(2, Lane::Message, vec![number]);
        pair.one.send(vec![Envelope { shed: Shed::First, ..heartbeat }]);
    }
    eventually("all heartbeats", || pair.second.heads(Lane::Message).len() == 20);
    assert!(pair.second.heads(Lane::Append).len() < 16, "the bulk took its time");
}
