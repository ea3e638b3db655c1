//! Who may call what. In reading order: what each call needs ([`rules`]), the
//! clients' tokens ([`tokens`]), how much one identity may take
//! ([`identities`]), the decision ([`authority`]) and where it is asked
//! ([`guard`]); beside them the configuration ([`config`]) and where the
//! service may listen without all this ([`exposure`]).
//!
//! Decided here and nowhere else. Shows no token and no key, in no log and no
//! answer.

pub mod authority;
pub mod config;
pub mod exposure;
pub mod guard;
pub mod identities;
pub mod rules;
pub mod tokens;
