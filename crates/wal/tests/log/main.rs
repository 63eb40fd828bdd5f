//! The log as its users see it: what it does, what it refuses, and what a crash, a fault or rot makes of it.
#![cfg(feature = "testing")]

mod basics;
mod crash;
mod damage;
mod faults;
mod footers;
mod golden;
mod model;
mod recycle;
mod repair;
mod rot;
mod states;
mod threads;
mod tools;
mod util;
mod vectored;
