//! A serving process, from its sockets to its end.

use std::{net::TcpListener, thread, time::Duration};

use axum::{Router, middleware};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    api::{Api, explain_unserved},
    clients::{Clients, Places},
    config::{Config, InitialState, ListenUrl},
    exit::{Failure, Kind},
    fault, http,
    node::Node,
    start,
};

/// How long requests in hand may take to end once the node has stopped: it has answered all of them by then.
const DRAIN: Duration = Duration::from_secs(2);
/// How long to wait before a member that could not publish who it is tries again.
const PUBLISH_AGAIN: Duration = Duration::from_millis(500);

/// Serves until it is told to stop, or the node ends by itself.
///
/// # Errors
/// Whatever keeps it from starting, or ends it; see [`Kind`].
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("oarlock-api")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Io, format_args!("cannot start threads: {error}")))?;
    let places = Places::of_this_process()?;
    // Sockets before the log is touched: a second server that was started by mistake changes nothing.
    let peer_listeners = bind("--listen-peer-urls", &config.listen_peer)?;
    let client_listeners = bind("--listen-client-urls", &config.listen_client)?;
    // From here on, so that a stop that is asked for while a long log is read is one, too.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let booted = config.clone();
    let boot = runtime.spawn_blocking(move || start::start(&booted, peer_listeners));
    let started = runtime.block_on(async {
        tokio::select! {
            started = boot => started.map(Some),
            name = signals.next() => {
                log::info!("stopping on {name}, before anything was served");
                Ok(None)
            }
        }
    });
    let node = match started {
        // As safe as any crash; and whatever the start still waits for need not come.
        Ok(None) => {
            runtime.shutdown_background();
            return Ok(());
        }
        Ok(Some(started)) => started?,
        Err(error) => {
            return Err(Failure::new(Kind::Internal, format_args!("the start failed: {error}")));
        }
    };
    let Some(node) = node else { return Ok(()) };
    let result = runtime.block_on(serve(config, &node, client_listeners, &places, signals));
    node.handle().shutdown(); // for the ways out on which nobody has
    runtime.shutdown_timeout(DRAIN);
    result
}

/// The signals that ask for a stop. From the moment it is made they no longer end the process by themselves.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let watch = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Kind::Io, format_args!("cannot watch for signals: {error}"))
            })
        };
        let terminate = watch(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: watch(SignalKind::interrupt())? })
    }

    /// Waits for one, and gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "an interrupt",
        }
    }
}

fn bind(flag: &str, urls: &[ListenUrl]) -> Result<Vec<TcpListener>, Failure> {
    let bind = |listen: &ListenUrl| {
        TcpListener::bind(listen.address).map_err(|error| {
            let failure =
                |kind| Failure::new(kind, format_args!("cannot listen on {}: {error}", listen.url));
            match error.kind() {
                std::io::ErrorKind::AddrInUse => failure(Kind::InUse).help(format!(
                    "another process listens there: stop it, or give another address with {flag}"
                )),
                std::io::ErrorKind::AddrNotAvailable => failure(Kind::Usage)
                    .help(format!("this machine has no such address: change {flag}")),
                std::io::ErrorKind::PermissionDenied => failure(Kind::Usage)
                    .help(format!("ports below 1024 are for root: change {flag}")),
                _ => failure(Kind::Io),
            }
        })
    };
    urls.iter().map(bind).collect()
}

async fn serve(
    config: &Config,
    node: &Node,
    listeners: Vec<TcpListener>,
    places: &Places,
    mut signals: Signals,
) -> Result<(), Failure> {
    let app = app(config, node);
    let (stop, stopping) = watch::channel(false);
    let mut servers = JoinSet::new();
    for listener in listeners {
        let clients = Clients::new(listener, places.clone()).map_err(|error| {
            Failure::new(Kind::Io, format_args!("cannot listen for clients: {error}"))
        })?;
        let mut stopping = stopping.clone();
        let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
        servers
            .spawn(axum::serve(clients, app.clone()).with_graceful_shutdown(stopped).into_future());
    }
    let publish =
        tokio::spawn(publish(config.name.clone(), config.advertise_client.clone(), node.clone()));
    announce(config, node);

    let handle = node.handle().clone();
    let ended = on_a_thread("oarlock-end", move || Some(handle.wait_end()));
    let (known, claimed) = (node.clone(), config.claimed_peer.clone());
    let unwelcome = on_a_thread("oarlock-welcome", move || known.check_welcome(&claimed).err());
    let mut verdict = Ok(());
    tokio::select! {
        Ok(end) = ended => verdict = fault::end(&end),
        Ok(failure) = unwelcome => verdict = Err(failure),
        name = signals.next() => log::info!("stopping on {name}; a leader hands over first"),
    }
    publish.abort();
    // In order (O14): leadership, then the node with everything that waits for it, then the connections.
    let handle = node.handle().clone();
    let patience = config.heartbeat * config.election_ticks;
    let end = tokio::task::spawn_blocking(move || handle.shutdown_gracefully(patience)).await;
    stop.send_replace(true);
    if tokio::time::timeout(DRAIN, servers.join_all()).await.is_err() {
        log::info!("some clients keep their connections; closing them");
    }
    verdict?;
    let end = end
        .map_err(|error| Failure::new(Kind::Internal, format_args!("stopping failed: {error}")))?;
    fault::end(&end)?;
    log::info!("stopped");
    Ok(())
}

/// gRPC and HTTP on one port.
fn app(config: &Config, node: &Node) -> Router {
    Api::new(node.clone(), config.limits)
        .routes()
        .into_axum_router()
        .merge(http::routes(node.clone()))
        .layer(middleware::from_fn(explain_unserved))
}

/// Waits for something on a thread of its own; never resolves to a value if there is none.
fn on_a_thread<T: Send + 'static>(
    name: &str,
    wait: impl FnOnce() -> Option<T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    let wait = move || drop(wait().map(|value| sender.send(value)));
    if let Err(error) = thread::Builder::new().name(name.into()).spawn(wait) {
        log::error!(error:%, name; "cannot start a thread");
    }
    receiver
}

/// Tells the cluster this member's name and client URLs, until the cluster knows (etcd's `publishV3`).
async fn publish(name: String, client_urls: Vec<String>, node: Node) {
    while let Err(error) = node.handle().publish(name.clone(), client_urls.clone()).await {
        if node.handle().end().is_some() {
            return;
        }
        log::debug!(error:%; "could not publish this member's name yet");
        tokio::time::sleep(PUBLISH_AGAIN).await;
    }
    log::info!(name; "published name and client URLs");
}

/// Says where clients find the server; of a cluster of one, which is what somebody starts who tries it out, also what
/// to type.
fn announce(config: &Config, node: &Node) {
    let listen: Vec<_> = config.listen_peer.iter().map(|listen| listen.url.as_str()).collect();
    let (listen, advertised) = (listen.join(","), config.advertise_peer.join(","));
    log::info!(listen, advertised; "serving peers");
    let urls = config.advertise_client.join(",");
    log::info!(urls; "serving clients");
    if config.initial_cluster.len() > 1 || config.initial_state == InitialState::Existing {
        return;
    }
    // Without it etcdctl asks 127.0.0.1:2379.
    let endpoints = if config.has_default_client_url() {
        String::new()
    } else {
        format!("--endpoints={urls} ")
    };
    let handle = node.handle().clone();
    let wait = move || {
        if handle.wait_leader(Duration::from_secs(10)).is_some() {
            let words = ["put greeting hello", "get greeting", "endpoint status -w table"];
            let lines: String =
                words.iter().map(|words| format!("  etcdctl {endpoints}{words}\n")).collect();
            crate::say(&format!("\noarlock serves. Try it from another terminal:\n\n{lines}\n"));
        }
    };
    drop(thread::Builder::new().name("oarlock-banner".into()).spawn(wait));
}
