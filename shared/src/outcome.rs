//! The fates of a frame. Every frame has exactly one; what is counted here is
//! what DESIGN calls the outcomes. Counting itself is the ledger's job.

/// Defines an enum of unit variants with a stable index and a metric label.
macro_rules! fates {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The word used in logs, metrics and the ledger.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// Place in [`Self::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

fates! {
    /// Why a frame was never sent.
    DropReason {
        /// A newer frame took its place.
        Superseded => "superseded",
        /// The rate gate did not want it.
        Paced => "paced",
        /// Nothing moved.
        Still => "still",
        /// Older than its deadline.
        Expired => "expired",
        /// Not a whole, decodable picture.
        Corrupt => "corrupt",
        /// Larger than the limit.
        TooLarge => "too_large",
        /// No server was connected.
        Offline => "offline",
        /// The service was stopping.
        Shutdown => "shutdown",
    }
}

fates! {
    /// What became of a frame that was sent, as answered by the server.
    Outcome {
        /// Faces were looked for; the result is published.
        Analyzed => "analyzed",
        /// Its deadline passed before the work began.
        Expired => "expired",
        /// Refused by overload.
        Shed => "shed",
        /// Not a picture that can be analysed.
        Invalid => "invalid",
        /// The engine failed on it.
        Failed => "failed",
        /// The server was stopping.
        Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_place_in_all() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        for (place, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), place);
        }
    }
}
