//! From `--initial-cluster` to the first entries of a log.

use oarlock_membership::record::ConfState;
use oarlock_membership::{
    Change, ChangeEntry, Cluster, Configuration, InitialError, Member, UrlFault, check_peer_url,
    ids_from, parse_initial_cluster,
};

const PROCFILE: &str =
    "infra3=http://127.0.0.1:32380,infra1=http://127.0.0.1:12380,infra2=http://127.0.0.1:22380";

#[test]
fn a_flag_founds_the_cluster_that_etcd_founds() {
    let cluster =
        Cluster::from_initial("etcd-cluster-1", &parse_initial_cluster(PROCFILE).expect("a list"))
            .expect("a cluster");
    assert_eq!(cluster.id(), 0xef37ad9dc622a7c4);
    let ids: Vec<(u64, &str)> =
        cluster.members().map(|member| (member.id, member.name.as_str())).collect();
    assert_eq!(
        ids,
        [
            (0x8211f1d0f64f3269, "infra1"),
            (0x91bc3c398fb3c146, "infra2"),
            (0xfd422379fda50e48, "infra3")
        ]
    );
    assert!(cluster.members().all(Member::is_voter));
}

#[test]
fn applying_the_founding_entries_gives_the_founded_cluster() {
    let founded =
        Cluster::from_initial("etcd-cluster-1", &parse_initial_cluster(PROCFILE).expect("a list"))
            .expect("a cluster");
    let entries = founded.founding_entries();
    let (mut applied, mut configuration) = (Cluster::new(founded.id()), Configuration::default());
    for (entry, index) in entries.iter().zip(1..) {
        assert_eq!((entry.index, entry.term), (index, 1));
        let change = ChangeEntry::read(&entry.view()).expect("readable").expect("a conf change");
        configuration = applied.apply_entry(&configuration, &change).expect("legal").configuration;
    }
    assert_eq!(applied, founded);
    assert_eq!(applied.agrees_with(&configuration.to_conf_state()), Ok(()));
    let views = entries.iter().map(|entry| entry.view());
    assert_eq!(ids_from(&ConfState::default(), views).expect("readable"), configuration);
}

/// The context is etcd's, to the byte.
#[test]
fn a_founding_entry_is_etcds() {
    let founded = Cluster::from_initial("etcd-cluster", &[("default", ["http://localhost:2380"])])
        .expect("a cluster");
    let mut entries = founded.founding_entries();
    assert_eq!(entries.len(), 1);
    let data = entries.remove(0).data;
    let context =
        br#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default"}"#;
    assert!(data.ends_with(context), "{data:?}");
    let header = [
        0x18,
        0xcd,
        0xd2,
        0x91,
        0x8b,
        0xd2,
        0xb8,
        0x81,
        0xcf,
        0x8e,
        0x01,
        0x22,
        context.len() as u8,
    ];
    assert_eq!(data[..data.len() - context.len()], header);
}

#[test]
fn faulty_lists_say_what_is_wrong() {
    use InitialError as E;
    let refused = |members: &[(&str, &[&str])], error: E| {
        assert_eq!(Cluster::from_initial("", members), Err(error), "{members:?}");
    };
    let bad = |url: &str, fault| E::BadUrl { name: "a".into(), url: url.into(), fault };
    refused(&[], E::Empty);
    refused(&[("a", &[])], E::NoUrl { name: "a".into() });
    refused(
        &[("a", &["http://x:1"]), ("a", &["http://y:1"])],
        E::DuplicateName { name: "a".into() },
    );
    refused(
        &[("a", &["http://x:1"]), ("b", &["http://x:1"])],
        E::DuplicateUrl { url: "http://x:1".into() },
    );
    refused(&[("a", &["http://x:1", "http://x:1"])], E::DuplicateUrl { url: "http://x:1".into() });
    refused(&[("a", &["x:1"])], bad("x:1", UrlFault::Scheme));
    refused(&[("a", &["http://x"])], bad("http://x", UrlFault::HostPort));
    // URLs are hashed without anything between them, so only well-formed ones keep ids apart.
    let id = Member::founding("a", ["http://x:1", "http://y:1"], "").id;
    refused(
        &[("a", &["http://x:1", "http://y:1"]), ("b", &["http://x:1http://y:1"])],
        E::BadUrl { name: "b".into(), url: "http://x:1http://y:1".into(), fault: UrlFault::Path },
    );
    assert_eq!(
        Member::founding("b", ["http://x:1http://y:1"], "").id,
        id,
        "which is why URLs are checked"
    );

    for list in ["a", "=http://x:1", "a=", "a=http://x:1,b"] {
        assert!(matches!(parse_initial_cluster(list), Err(E::NotAPair { .. })), "{list:?}");
    }
    for list in ["", " , "] {
        assert_eq!(parse_initial_cluster(list), Err(E::Empty), "{list:?}");
    }
}

/// etcd's TestNewURLs, for TCP.
#[test]
fn peer_urls_are_scheme_host_and_port() {
    for good in
        ["http://127.0.0.1:2379", "https://a.b.c:65535", "http://[::1]:1", "http://localhost:2380"]
    {
        assert_eq!(check_peer_url(good), Ok(()), "{good}");
    }
    for (bad, fault) in [
        ("", UrlFault::Scheme),
        ("localhost:2380", UrlFault::Scheme),
        ("mailto://127.0.0.1:2379", UrlFault::Scheme),
        ("://127.0.0.1:2379", UrlFault::Scheme),
        ("http://127.0.0.1", UrlFault::HostPort),
        ("http://:2379", UrlFault::HostPort),
        ("http://[]:2379", UrlFault::HostPort),
        ("http://::1:2379", UrlFault::HostPort),
        ("http://a b:2379", UrlFault::HostPort),
        ("http://user@h:2379", UrlFault::HostPort),
        ("http://127.0.0.1:2379/path", UrlFault::Path),
        ("http://127.0.0.1:2379/", UrlFault::Path),
        ("http://127.0.0.1:2379?x", UrlFault::Path),
        ("http://h:", UrlFault::Port),
        ("http://h:0", UrlFault::Port),
        ("http://h:+80", UrlFault::Port),
        ("http://h:65536", UrlFault::Port),
        ("http://h:port", UrlFault::Port),
    ] {
        assert_eq!(check_peer_url(bad), Err(fault), "{bad}");
    }
}

#[test]
fn a_member_that_joins_has_no_name_and_an_id_of_its_time() {
    let member = Member::joining(["http://10.0.0.8:2379"], 472662245);
    assert_eq!(member.id, 2448790162483548276);
    assert!(!member.is_started());
    let mut cluster = Cluster::from_initial("t", &[("a", ["http://a:1"])]).expect("a cluster");
    cluster.apply(&Change::AddVoter(member.clone())).expect("new");
    cluster.apply(&Change::Remove(member.id)).expect("known");
    let again = Member::joining(["http://10.0.0.8:2379"], 472662246);
    assert!(
        cluster.apply(&Change::AddVoter(again)).is_ok(),
        "the same URLs, later, are somebody else"
    );
}
