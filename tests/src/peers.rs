//! The benchmark beside others: our pair, a bare loop over the engine, and what
//! a user would write instead (tests/peers), each as a program of its own on
//! the same cores, with the same pictures and models. In reading order: where
//! things run ([`cores`], [`python`], [`side`]), what is asked of them
//! ([`pictures`], [`client`], [`load`], [`overload`]), whether they do the same
//! work ([`agree`]), and what came out ([`tree`], [`bare_loop`], [`report`]).
//!
//! Must not favour a side: what differs between sides is in [`side`] alone.

pub mod agree;
pub mod bare_loop;
pub mod client;
pub mod cores;
pub mod load;
pub mod overload;
pub mod pictures;
pub mod python;
pub mod report;
pub mod side;
pub mod tree;
