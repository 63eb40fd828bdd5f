//! The examples do what they say.

#[path = "../examples/counter.rs"]
mod counter;

#[test]
fn the_counter_counts() {
    counter::main().expect("it counts");
}

#[path = "../examples/own_loop.rs"]
mod own_loop;

#[test]
fn a_loop_of_one_s_own_applies_each_thing_once() {
    own_loop::main().expect("it does");
}
