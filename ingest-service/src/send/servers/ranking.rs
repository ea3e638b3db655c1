//! Which server a camera belongs to: rendezvous hashing (Thaler and
//! Ravishankar, "Using name-based mappings to increase hit rates", 1998). Every
//! camera ranks all servers by a hash of both names, so that one server more or
//! less moves only the cameras that come to it or leave it, and no process has
//! to know what others decided. Pure; knows nothing of who is there.

use std::net::SocketAddr;

use flatframe_shared::frame::CameraId;

/// Offset and prime of FNV-1a with 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// How much `camera` belongs to `server`: the largest weight wins. The same in
/// every process and version, which the standard library's hash does not
/// promise.
pub fn weight(camera: &CameraId, server: SocketAddr) -> u64 {
    let server = server.to_string();
    // A byte that is in neither, between the two.
    let bytes = camera.as_str().bytes().chain([0]).chain(server.bytes());
    let hash = bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    mix(hash)
}

/// The last step of MurmurHash3: FNV leaves the high bits of names that differ
/// in their last letter nearly equal, and those decide.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 50_051))
    }

    fn camera(number: usize) -> CameraId {
        CameraId::parse(&format!("camera-{number}")).expect("an id")
    }

    fn first(camera: &CameraId, servers: &[SocketAddr]) -> SocketAddr {
        *servers.iter().max_by_key(|server| weight(camera, **server)).expect("a server")
    }

    /// Cameras must not change their servers with a version of this program.
    #[test]
    fn the_hash_is_fixed() {
        assert_eq!(weight(&camera(1), server(1)), 15_211_452_428_165_512_695);
    }

    #[test]
    fn cameras_spread_evenly() {
        let servers: Vec<_> = (1..=3).map(server).collect();
        let mut counts = BTreeMap::<_, usize>::new();
        for number in 0..3000 {
            *counts.entry(first(&camera(number), &servers)).or_default() += 1;
        }
        // Four standard deviations of 3000 throws at one in three: 103.
        assert!(counts.len() == 3 && counts.values().all(|count| (897..=1103).contains(count)), "{counts:?}");
    }

    proptest! {
        /// Whoever is not on the server that goes stays; whoever was goes to
        /// the servers that are left, and not all to one.
        #[test]
        fn only_the_cameras_of_a_server_that_goes_move(
            numbers in prop::collection::btree_set(1u8..255, 3..12),
            gone in any::<prop::sample::Index>(),
            prefix in "[a-z]{1,8}",
        ) {
            let servers: Vec<_> = numbers.into_iter().map(server).collect();
            let gone = *gone.get(&servers);
            let left: Vec<_> = servers.iter().copied().filter(|server| *server != gone).collect();
            let mut taken_over = BTreeMap::<_, usize>::new();
            for number in 0..400 {
                let camera = CameraId::parse(&format!("{prefix}-{number}")).expect("an id");
                let (before, after) = (first(&camera, &servers), first(&camera, &left));
                if before == gone {
                    *taken_over.entry(after).or_default() += 1;
                } else {
                    prop_assert_eq!(before, after, "{} moved without need", camera);
                }
            }
            prop_assert!(taken_over.len() >= 2, "{:?}", taken_over);
        }
    }
}
