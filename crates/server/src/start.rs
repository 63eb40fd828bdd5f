//! From flags and a directory to a running node.

use std::{
    fs::DirBuilder,
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::{Arc, OnceLock},
};

use oarlock_membership::{Cluster, UncommittedTail};
use oarlock_raftnode::{
    NodeBuilder, NodeHandle, WalOptions, WalStore, WalView,
    bootstrap::{Boot, Recovered, Standalone, boot, is_initialised},
};
use oarlock_transport::{Identity, TcpOptions, TcpTransport};
use oarlock_wal::Wal;

use crate::{
    cli::TailChoice,
    config::{Config, ForceNew, InitialState},
    exit::{Failure, Kind},
    fault,
    kv::{KvMachine, Outcome},
    metrics::Metrics,
    node::Node,
    peers, readiness, tools,
};

/// Starts the node that `config` describes: found, join, go on, or rescue. `None` if it was only to be shown what would
/// be done.
///
/// # Errors
/// Whatever keeps it from starting. Nothing is written before the flags and the peers have been heard.
pub(crate) fn start(
    config: &Config,
    peer_listeners: Vec<TcpListener>,
) -> Result<Option<Node>, Failure> {
    let metrics = Metrics::new().map_err(|error| Failure::from_error(Kind::Internal, &error))?;
    let dir = config.member_dir();
    let options = || {
        WalOptions::new(&dir)
            .unsafe_no_fsync(config.unsafe_no_fsync)
            .observer(Arc::new(metrics.clone()))
    };
    if config.unsafe_no_fsync {
        log::warn!(
            "--unsafe-no-fsync: acknowledged writes WILL be lost with the power; never for data that you need"
        );
    }
    check_data_dir(&config.data_dir)?;
    let opened = |result: Result<WalStore, _>| result.map_err(|error| fault::store(&error, &dir));
    let exists = options().exists().map_err(|error| fault::store(&error, &dir))?;
    if let Some(force) = config.force_new.filter(|force| force.dry_run) {
        let view = || WalView::open(&dir).map_err(|error| fault::store(&error, &dir));
        let view = if exists { Some(view()?) } else { None };
        let initialised = view.as_ref().map_or(Ok(false), |view| is_initialised(view));
        return match view {
            Some(view) if initialised.map_err(|error| fault::boot(&error.into()))? => {
                tools::show_plan(&view, standalone(force)).map(|()| None)
            }
            _ => boot_first(config).map(|_| None), // says that there is nothing to rescue
        };
    }
    let found = exists.then(|| opened(options().open())).transpose()?;
    // A log without an owner is what a crash leaves between the first file and the first record.
    let initialised = found.as_ref().map_or(Ok(false), |store| is_initialised(store));
    let initialised = initialised.map_err(|error| fault::boot(&error.into()))?;
    let boot_as = if initialised { boot_again(config) } else { boot_first(config)? };
    let mut store = match found {
        Some(store) => store,
        None => {
            make_data_dir(&config.data_dir)?;
            opened(options().create())?
        }
    };
    report_recovery(store.wal());
    let snapshots = store.snapshots();
    let recovered = boot(&mut store, &*snapshots, &boot_as).map_err(|error| fault::boot(&error))?;
    run(config, recovered, store, peer_listeners, metrics).map(Some)
}

/// With data the initial-* flags mean nothing, as in etcd; only an order to go on alone does.
fn boot_again(config: &Config) -> Boot {
    match config.force_new {
        Some(force) => Boot::Standalone(standalone(force)),
        None => Boot::Restart,
    }
}

/// The library's words for the flags.
pub(crate) fn standalone(force: ForceNew) -> Standalone {
    let tail = match force.tail {
        TailChoice::Keep => UncommittedTail::Keep,
        TailChoice::Discard => UncommittedTail::Discard,
    };
    Standalone { tail, keep_cluster_id: force.keep_cluster_id, again: false }
}

/// Without data: found a cluster or join one, after hearing what the others say.
fn boot_first(config: &Config) -> Result<Boot, Failure> {
    if config.force_new.is_some() {
        let error = format_args!(
            "--force-new-cluster, but there is no data in {}",
            config.data_dir.display()
        );
        return Err(Failure::new(Kind::Usage, error).help("give the --data-dir of the survivor"));
    }
    config.check_initial()?;
    match config.initial_state {
        InitialState::New => {
            let cluster = Cluster::from_initial(&config.token, &config.initial_cluster)
                .map_err(|error| Failure::from_error(Kind::Usage, &error))?;
            let own = cluster.member_by_name(&config.name);
            let id = own
                .ok_or_else(|| {
                    Failure::new(Kind::Internal, "a listed member is not in the cluster")
                })?
                .id;
            peers::check_not_bootstrapped(config, &cluster, id)?;
            Ok(Boot::New { id, cluster })
        }
        InitialState::Existing => {
            let (own, cluster) = peers::join(config)?;
            Ok(Boot::Join { id: own.id, cluster })
        }
    }
}

/// Refuses a file, and a link that leads nowhere: nothing can be made in its place.
fn check_data_dir(dir: &Path) -> Result<(), Failure> {
    if dir.symlink_metadata().is_err() || dir.is_dir() {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, format_args!("--data-dir {} is no directory", dir.display()))
        .at(dir, None)
        .help("if it is a link, mount what it leads to; if it is a file, choose another directory"))
}

/// Makes the data directory for its owner alone, as etcd does, and says so if it is there and open to others.
fn make_data_dir(dir: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Io, format_args!("cannot use {} as --data-dir: {error}", dir.display()))
            .at(dir, None)
            .help("choose a directory that the user of oarlock may write to")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mode = std::fs::metadata(dir).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        log::warn!(dir:% = dir.display(), mode:% = format_args!("{:o}", mode & 0o777); "others can enter the data directory; 700 is recommended");
    }
    Ok(())
}

/// Tells what opening the log found and did.
fn report_recovery(wal: &Wal) {
    let recovery = wal.recovery();
    if let Some(torn) = &recovery.torn {
        log::warn!(
            segment:% = torn.segment, offset = torn.offset, bytes = torn.bytes, set_aside:? = torn.set_aside;
            "the last run ended in a write of which nothing is known to have been durable; it is cut off and kept aside"
        );
    }
    for (segment, offset) in &recovery.damaged_headers {
        log::warn!(segment:%, offset; "a copy of a segment's header does not read back: look at the disk");
    }
}

fn run(
    config: &Config,
    recovered: Recovered,
    store: WalStore,
    peer_listeners: Vec<TcpListener>,
    metrics: Metrics,
) -> Result<Node, Failure> {
    let machine = KvMachine::default();
    let others = others(&recovered);
    let published = machine.published();
    let (wal, snapshots) = (store.wal().clone(), store.snapshots());
    let identity = Identity::new(recovered.id, recovered.cluster.id())
        .incarnation(recovered.incarnation)
        .urls(config.advertise_peer.iter().cloned());
    let options = TcpOptions::new()
        .max_frame(config.limits.max_request_bytes.saturating_mul(2).max(16 << 20));
    let transport = TcpTransport::new(identity, peer_listeners, options)
        .map_err(|error| Failure::from_error(Kind::Io, &error))?;
    let transport = Arc::new(transport);

    let handle: Arc<OnceLock<NodeHandle<Outcome>>> = Arc::default();
    let asked = Arc::clone(&handle);
    let node_config = node_config(config);
    let request_timeout = node_config.effective_request_timeout();
    let builder = NodeBuilder::new(node_config, recovered, Box::new(store), snapshots);
    let started = builder
        .queries(move |kind, question| {
            let learner = (kind == readiness::QUERY)
                .then(|| readiness::decode_question(&question))
                .flatten()?;
            Some(readiness::of(&asked.get()?.status(), learner).encode())
        })
        .start(machine, |handler| {
            transport.start(handler)?;
            Ok(Arc::clone(&transport))
        })
        .map_err(|error| fault::start(&error))?;
    drop(handle.set(started.clone()));
    Ok(Node::new(started, transport, wal, published, metrics, others, request_timeout))
}

/// Who may say whether this member has a place among them. Not whom a rescue has removed: a snapshot from before it still
/// lists them, and if they came back with the old cluster's id they would end the rescued one.
fn others(recovered: &Recovered) -> Vec<Vec<String>> {
    let current = recovered.cluster.epoch() >= recovered.rescue_epoch;
    let members = recovered.cluster.members().filter(|_| current);
    let others = members.chain(&recovered.contacts).filter(|member| member.id != recovered.id);
    others.map(|member| member.peer_urls.clone()).collect()
}

fn node_config(config: &Config) -> oarlock_raftnode::Config {
    oarlock_raftnode::Config::new()
        .heartbeat_interval(config.heartbeat)
        .election_ticks(config.election_ticks)
        .pre_vote(config.pre_vote)
        .initial_tick_advance(config.initial_tick_advance)
        .max_request_bytes(config.limits.max_request_bytes)
        .snapshot_count(config.snapshot_count)
        .snapshot_catchup_entries(config.snapshot_catchup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rescued_member_does_not_ask_whom_the_rescue_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = WalOptions::new(dir.path()).create().expect("a log");
        let list = [("a", ["http://h1:1"]), ("b", ["http://h2:1"]), ("c", ["http://h3:1"])];
        let cluster = Cluster::from_initial("t", &list).expect("valid");
        let id = cluster.member_by_name("a").expect("listed").id;
        let founded = Boot::New { id, cluster: cluster.clone() };
        let snapshots = log.snapshots();
        let mut recovered = boot(&mut log, &*snapshots, &founded).expect("it boots");
        assert_eq!(others(&recovered).len(), 2, "the founders");
        // What a snapshot from before the rescue says.
        recovered.cluster = cluster;
        recovered.contacts.retain(|member| member.id == id);
        assert_eq!(others(&recovered).len(), 2);
        recovered.rescue_epoch = 1;
        assert!(others(&recovered).is_empty());
    }
}
