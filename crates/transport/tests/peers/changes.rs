//! Peers that move, leave and come back while connections to them are being made.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use oarlock_transport::{Identity, Lane, Refusal, TcpOptions, TcpTransport, Transport};
use parking_lot::Mutex;

use crate::common::proxy::{Proxy, Way};
use crate::common::raw::{ENVELOPE, Greeting, Key, PREFACE, REFUSAL, Raw, WELCOME, frame};
use crate::common::{Recorder, envelope, eventually};

const CLUSTER: u64 = 0xc1;

/// Members that put up with silence, so that nothing but the change itself can end a connection.
fn member(id: u64) -> (TcpTransport, Arc<Recorder>) {
    let options = TcpOptions::new()
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .idle_timeout(Duration::from_secs(60));
    let transport = TcpTransport::bind(Identity::new(id, CLUSTER), "127.0.0.1:0", options);
    let (transport, handler) = (transport.expect("a free port"), Recorder::new());
    transport.start(handler.clone()).expect("started");
    (transport, handler)
}

fn url(transport: &TcpTransport) -> String {
    format!("http://{}", transport.local_addrs()[0])
}

/// Somebody who will say welcome as member 2, when the test wants it.
struct Doorman(TcpListener);

impl Doorman {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().expect("bound"))
    }

    /// The next connection, after its hello was read.
    fn next(&self) -> (TcpStream, Greeting) {
        let (stream, _) = self.0.accept().expect("a lane");
        let mut raw = Raw { stream, send: Key::GREETING, receive: Key::GREETING };
        let (_, head) = raw.read_answer().expect("a hello");
        (raw.stream, prost::Message::decode(&head[..]).expect("a greeting"))
    }

    fn welcome(mut stream: &TcpStream) {
        let greeting = Greeting {
            cluster: CLUSTER,
            from: 2,
            nonce: 5,
            max_frame: 1 << 20,
            max_payloads: 1,
            purpose: 1,
            ..Greeting::default()
        };
        let head = prost::Message::encode_to_vec(&greeting);
        let welcome = frame(&mut Key::GREETING.clone(), WELCOME, &head, &[]);
        stream.write_all(&[&PREFACE[..], &welcome].concat()).expect("it reads");
    }
}

/// The new URL counts for a connection that was being made under the old one, too: nobody would ever leave it otherwise.
#[test]
fn a_peer_that_moves_while_it_is_being_dialled_is_followed() {
    let (one, _) = member(1);
    let (two, inbox) = member(2);
    let doorman = Doorman::new();
    one.add_peer(2, &[doorman.url()]).expect("a good url");
    let waiting = [doorman.next().0, doorman.next().0];
    one.update_peer(2, &[url(&two)]).expect("known");
    waiting.iter().for_each(Doorman::welcome);
    eventually("both lanes at the new address", || {
        Lane::ALL.iter().for_each(|&lane| one.send(vec![envelope(2, lane, "here?")]));
        Lane::ALL.iter().all(|lane| !inbox.heads(*lane).is_empty())
    });
}

/// Holds every caller until the test lets go.
fn gate() -> (impl Fn() + Send + Sync + 'static, impl FnOnce(), Receiver<()>) {
    let (release, held) = channel::<()>();
    let (arrive, arrived) = channel();
    let (held, arrive) = (Mutex::new(held), Mutex::new(arrive));
    let wait = move || {
        let _ = arrive.lock().send(());
        let _ = held.lock().recv();
    };
    (wait, move || drop(release), arrived)
}

/// Who is let in while the owner removes it is asked about again.
#[test]
fn a_peer_that_is_removed_while_it_shakes_hands_is_not_heard() {
    let (one, first) = member(1);
    let address: SocketAddr = one.local_addrs()[0];
    one.add_peer(2, &["http://127.0.0.1:1".into()]).expect("a good url");
    let (wait, release, arrived) = gate();
    let removed = Arc::new(Mutex::new(false));
    let inner = Arc::clone(&removed);
    *first.admit.lock() = Box::new(move |_| {
        let gone = *inner.lock();
        wait();
        if gone { Err(Refusal::Removed) } else { Ok(()) }
    });
    let hello = Greeting { purpose: 1, cluster: CLUSTER, from: 2, to: 1, ..Greeting::default() };
    let mut two = Raw::greet(address, &hello);
    arrived.recv().expect("it is being judged");
    *removed.lock() = true;
    one.remove_peer(2);
    release();
    // Either it is refused, or let in and heard: the test is which.
    let mut said = two.read_answer().expect("an answer");
    if said.0 == WELCOME {
        let welcome: Greeting = prost::Message::decode(&said.1[..]).expect("a greeting");
        two.send = Key::of(1, 0, welcome.nonce);
        two.receive = Key::of(2, 0, welcome.nonce);
        let _ = two.stream.write_all(&frame(&mut two.send, ENVELOPE, b"zombie", &[]));
        said = two.read().unwrap_or_default();
    }
    assert!(first.heads(Lane::Message).is_empty(), "a removed member was heard");
    assert_eq!(said.0, REFUSAL, "it is told why");
}

/// What is left of the first life does not come after, nor between, what the second one says.
#[test]
fn a_peer_that_is_added_again_hears_nothing_of_its_former_life() {
    let (one, _) = member(1);
    let (two, inbox) = member(2);
    let proxy = Proxy::to(two.local_addrs()[0]);
    one.add_peer(2, &[proxy.url()]).expect("a good url");
    eventually("both lanes", || one.stats().peers[&2].connects == 2);
    proxy.stall(Way::There);
    let number = |number: u32| {
        let payloads = vec![vec![0; 256 << 10].into()];
        let head = number.to_be_bytes().to_vec();
        oarlock_transport::Envelope { payloads, ..envelope(2, Lane::Append, head) }
    };
    one.send((0..100).map(number).collect());
    one.remove_peer(2);
    one.add_peer(2, &[url(&two)]).expect("a good url");
    // The old lane is cut and, if it still lives, dials again to send the rest.
    proxy.heal();
    for next in 100..200 {
        one.send(vec![number(next)]);
        std::thread::sleep(Duration::from_millis(2));
    }
    eventually("the last one", || {
        one.send(vec![envelope(2, Lane::Append, 999u32.to_be_bytes().to_vec())]);
        inbox.heads(Lane::Append).last().is_some_and(|head| head[..] == 999u32.to_be_bytes())
    });
    let heads = inbox.heads(Lane::Append);
    assert!(heads.is_sorted(), "out of order: {heads:?}");
}
