//! What the others say before a member begins, or goes on.

use std::time::Duration;

use oarlock_raftnode::bootstrap::{
    Place, Unwelcome, ask_members, check_not_bootstrapped, check_welcome,
};
use oarlock_raftnode::membership::{Change, Cluster, Member};

fn three() -> (Cluster, u64, u64) {
    let listed = [("a", ["http://h1:1"]), ("b", ["http://h2:1"]), ("c", ["http://h3:1"])];
    let cluster = Cluster::from_initial("t", &listed).expect("valid");
    let [a, b] = ["a", "b"].map(|name| cluster.member_by_name(name).expect("listed").id);
    (cluster, a, b)
}

#[test]
fn nobody_founds_a_cluster_alone_among_strangers() {
    let (cluster, id, _) = three();
    let (ours, strangers) = (Some(cluster.clone()), Some(Cluster::new(2)));
    let cases: [(&[Option<Cluster>], bool); 5] = [
        (&[], true), // alone on purpose
        (&[None, None], true),
        (&[strangers.clone(), None], true), // the silent one may be ours
        (&[strangers.clone(), ours], true),
        (&[strangers.clone(), strangers], false),
    ];
    for (answers, good) in cases {
        let judged = check_not_bootstrapped(id, &cluster, answers);
        let expected = if good { Ok(()) } else { Err(Unwelcome::Strangers { ours: cluster.id() }) };
        assert_eq!(judged, expected, "{answers:?}");
    }
}

/// It would vote again where it has voted.
#[test]
fn a_founder_that_lost_its_data_does_not_found_again() {
    let (cluster, a, b) = three();
    let published = |id| {
        let mut cluster = cluster.clone();
        let name = cluster.member(id).expect("listed").name.clone();
        cluster.update_attributes(id, &name, &["http://h1:2".into()]).expect("listed");
        cluster
    };
    let judge = |answer: Cluster| check_not_bootstrapped(a, &cluster, &[None, Some(answer)]);
    assert_eq!(judge(cluster.clone()), Ok(()), "it is starting for the first time");
    assert_eq!(judge(published(b)), Ok(()), "so is this one");
    assert_eq!(judge(published(a)), Err(Unwelcome::AlreadyBootstrapped { id: a }));

    let mut without = cluster.clone();
    without.apply(&Change::Remove(a)).expect("one of three");
    assert_eq!(judge(without), Err(Unwelcome::Removed { id: a }));
    let mut theirs = cluster.clone();
    theirs.set_id(7);
    assert_eq!(judge(theirs), Err(Unwelcome::ListedElsewhere { theirs: 7 }));
}

#[test]
fn only_what_is_certain_ends_a_member() {
    let ours = Some(Cluster::new(1));
    let strangers = Some(Cluster::new(2));
    let mut without_us = Cluster::new(1);
    for id in [7, 8] {
        let member = Member { id, peer_urls: vec![format!("http://h{id}:1")], ..Member::default() };
        without_us.apply(&Change::AddVoter(member)).expect("a new one");
    }
    without_us.apply(&Change::Remove(7)).expect("not the last");
    let alone = || Err(Unwelcome::Strangers { ours: 1 });
    type Case<'a> = (&'a [Option<Cluster>], Result<(), Unwelcome>);
    let cases: [Case<'_>; 6] = [
        (&[ours.clone(), None], Ok(())),
        (&[ours.clone(), strangers.clone()], Ok(())),
        (&[strangers.clone(), None], Ok(())),
        (std::slice::from_ref(&strangers), alone()),
        (&[strangers.clone(), strangers.clone()], alone()),
        (&[ours, Some(without_us)], Err(Unwelcome::Removed { id: 7 })),
    ];
    for (answers, expected) in cases {
        let own = Place { cluster_id: 1, id: 7, claimed: &[] };
        assert_eq!(check_welcome(own, answers), expected, "{answers:?}");
    }
}

#[test]
fn nobody_serves_from_the_place_of_another() {
    let (all, a, b) = three();
    let cluster_id = all.id();
    let mut moved = all.clone(); // a went to h4, and b to where it was
    for (id, url) in [(a, "http://h4:1"), (b, "http://h1:1")] {
        moved.update_peer_urls(id, &[url.to_owned()]).expect("nobody else is there");
    }
    let (all, moved, empty) = (Some(all), Some(moved), Some(Cluster::new(cluster_id)));
    let (h1, h2, h9) = ("http://h1:1", "http://h2:1", "http://h9:1");
    type Case<'a> = (&'a [&'a str], &'a [Option<Cluster>], bool);
    let cases: [Case<'_>; 9] = [
        (&[h1], &[all.clone(), all.clone()], true),
        (&[h2], &[all.clone(), None], false),
        (&[h2], &[all.clone(), all.clone()], false),
        (&[h2], &[all.clone(), empty.clone()], false), // it has not heard of anybody
        (&[h2, h1], &[all.clone(), all.clone()], true),
        (&[h9], &[all.clone(), all.clone()], true), // behind a translation of addresses
        (&[], &[all.clone(), all.clone()], true),
        (&[h2], &[None, empty], true),
        (&[h1], &[moved.clone(), moved.clone()], false),
    ];
    for (claimed, answers, good) in cases {
        let claimed: Vec<String> = claimed.iter().map(ToString::to_string).collect();
        let own = Place { cluster_id, id: a, claimed: &claimed };
        let judged = check_welcome(own, answers);
        assert_eq!(judged.is_ok(), good, "{claimed:?} {answers:?}");
        assert!(matches!(judged, Ok(()) | Err(Unwelcome::NotItsPlace { .. })), "{judged:?}");
    }
    // Of those who update, one may be behind.
    let claimed = [h1.to_owned()];
    let own = Place { cluster_id, id: b, claimed: &claimed };
    check_welcome(own, &[all, moved]).expect("b lives there by now");
}

/// Nobody there, nobody who knows anybody, and somebody who does; all at once.
#[test]
fn the_silent_are_waited_for_once() {
    let nobody = || {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", taken.local_addr().expect("bound"));
        (taken, vec![url])
    };
    let silent: Vec<_> = (0..8).map(|_| nobody()).collect();
    let urls: Vec<_> = silent.iter().map(|(_, urls)| urls.clone()).collect();
    let began = std::time::Instant::now();
    let answers = ask_members(&urls, Duration::from_millis(500));
    assert_eq!(answers, vec![None; 8]);
    assert!(began.elapsed() < Duration::from_secs(3), "one after the other");
}
