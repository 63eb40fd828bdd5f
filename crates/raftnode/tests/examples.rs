//! The examples do what they say.

#[path = "../examples/counter.rs"]
mod counter;

#[test]
fn the_counter_counts() {
    counter::main().expect("it counts");
}
