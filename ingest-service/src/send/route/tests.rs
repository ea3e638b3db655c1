//! Where one camera goes: first choice, fail-over, refusal, return, relief.
//! Connections are not part of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use flatframe_shared::frame::PictureSize;
use proptest::prelude::*;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::ServerConfig;
use crate::send::servers::connect::Tcp;
use crate::send::servers::directory::SystemResolver;
use crate::terms::Terms;

const SIZE: PictureSize = PictureSize::new(640, 480);

fn servers(count: u8) -> Servers {
    let addresses = (1..=count).map(|number| format!("http://10.0.0.{number}:50051")).collect();
    let config = ServerConfig { addresses, ..ServerConfig::default() };
    Servers::new(&config, Arc::new(Tcp::default()), Arc::new(SystemResolver), TaskTracker::new()).expect("addresses")
}

fn route(servers: &Servers, camera: &str) -> Route {
    Route::new(servers.clone(), CameraId::parse(camera).expect("an id"), 10.0, TermsCell::default())
}

fn dial(route: &Route) -> SocketAddr {
    route.choose().expect("a server").0.address
}

/// Opens a stream, at a server that asks for `max_fps`.
fn open(route: &Route, max_fps: Option<f32>) {
    route.terms.set(Some(Terms { max_fps, max_size: SIZE, max_frame_bytes: 1 }));
    route.opened(Pace { max_fps, max_size: SIZE });
}

fn better(route: &Route) -> Option<(SocketAddr, MoveReason)> {
    route.better_place().map(|(known, reason)| (known.address, reason))
}

/// As [`Route::find_better`], once a server was found.
fn go(route: &Route) {
    let (known, reason) = route.better_place().expect("a better place");
    route.lock().moving = Some(Moving { to: known.address, reason, pace_fps: route.pace_fps() });
    assert_eq!(route.ended(Parting::Moved), Retry::Elsewhere);
}

#[tokio::test(start_paused = true)]
async fn leaves_a_server_that_is_gone_and_comes_back_to_it() {
    let servers = servers(3);
    let (route, other) = (route(&servers, "a"), route(&servers, "a"));
    let home = dial(&route);
    open(&route, None);
    assert_eq!((dial(&other), better(&route)), (home, None), "the same for everyone");
    assert_eq!(route.ended(Parting::Gone), Retry::Elsewhere);
    assert!(servers.streams().is_empty());
    let second = dial(&route);
    assert_ne!(second, home);
    assert_eq!(dial(&other), second, "what one camera found out, the others know");
    open(&route, None);
    assert_eq!(better(&route), None, "not while its server is absent");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(better(&route), Some((home, MoveReason::Return)));
    go(&route);
    open(&route, None);
    assert_eq!((better(&route), servers.streams().into_iter().collect::<Vec<_>>()), (None, vec![(home, 1)]));
    assert_eq!(MoveReason::ALL.map(|reason| servers.moves(reason)), [1, 1, 0]);
    drop(route);
    assert!(servers.streams().is_empty(), "a camera that ends leaves nothing behind");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_passed_over_by_this_camera_only() {
    let servers = servers(2);
    let (route, other) = (route(&servers, "a"), route(&servers, "a"));
    let home = dial(&route);
    assert_eq!(route.ended(Parting::Refused(Duration::from_secs(5))), Retry::Elsewhere);
    let second = dial(&route);
    assert!(second != home && dial(&other) == home);
    assert_eq!(route.ended(Parting::Refused(Duration::from_secs(5))), Retry::Later, "both are full");
    assert_eq!(dial(&route), home, "the one that was asked longest ago");
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(dial(&route), home);
    assert_eq!(route.ended(Parting::Taken), Retry::Later, "no other server would help");
    assert_eq!(route.ended(Parting::Drained), Retry::Elsewhere);
}

/// Its home has room for none: a camera that is served elsewhere breaks its
/// stream for it once, not at every look.
#[tokio::test(start_paused = true)]
async fn a_home_that_is_full_is_not_tried_again_and_again() {
    let servers = servers(2);
    let route = route(&servers, "a");
    let home = dial(&route);
    route.ended(Parting::Refused(Duration::from_secs(5)));
    let second = dial(&route);
    open(&route, None);
    tokio::time::advance(Duration::from_secs(5)).await;
    go(&route);
    assert_eq!(dial(&route), home);
    route.ended(Parting::Refused(Duration::from_secs(5)));
    assert_eq!(dial(&route), second);
    open(&route, None);
    tokio::time::advance(BUSY_FOR - Duration::from_secs(1)).await;
    assert_eq!(better(&route), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(better(&route), Some((home, MoveReason::Return)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_recovers_is_not_left() {
    let route = route(&servers(2), "a");
    dial(&route);
    for (then_fps, is_recovering) in [(4.0, false), (6.0, true)] {
        open(&route, Some(4.0));
        let changes = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            route.terms.set(Some(Terms { max_fps: Some(then_fps), max_size: SIZE, max_frame_bytes: 1 }));
        };
        assert_eq!(tokio::join!(route.is_recovering(), changes).0, is_recovering, "{then_fps} frames/s");
    }
    open(&route, None);
    assert!(!route.is_recovering().await, "nothing to recover from");
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_all_gone_are_tried_in_turn() {
    let servers = servers(3);
    let route = route(&servers, "a");
    for _ in 0..3 {
        let mut tried = BTreeSet::new();
        for _ in 0..3 {
            tried.insert(dial(&route));
            route.ended(Parting::Gone);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(tried.len(), 3, "{tried:?}");
    }
    assert_eq!(route.ended(Parting::Gone), Retry::Later);
    assert_eq!(route.lock().marks.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_left_for_one_that_asks_for_more() {
    let servers = servers(2);
    let route = route(&servers, "a");
    let home = dial(&route);
    open(&route, Some(8.0));
    assert_eq!(better(&route), None, "a little less than wanted is no reason");
    open(&route, Some(4.0));
    let (second, reason) = better(&route).expect("relief");
    assert_eq!(reason, MoveReason::Relief);
    go(&route);
    open(&route, Some(9.0));
    assert_eq!(route.lock().current, Some(second));
    tokio::time::advance(BUSY_FOR - Duration::from_secs(1)).await;
    assert_eq!(better(&route), None, "it does not go to and fro");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(better(&route), Some((home, MoveReason::Return)));
}

#[tokio::test(start_paused = true)]
async fn where_all_are_busy_a_camera_goes_home_and_stays() {
    let servers = servers(2);
    let route = route(&servers, "a");
    let home = dial(&route);
    open(&route, Some(4.0));
    go(&route);
    open(&route, Some(4.5));
    assert_eq!(better(&route), Some((home, MoveReason::Return)), "no relief");
    go(&route);
    open(&route, Some(4.0));
    tokio::time::advance(BUSY_FOR - Duration::from_secs(1)).await;
    assert_eq!(better(&route), None, "not again so soon");
}

#[tokio::test(start_paused = true)]
async fn one_server_is_dialled_again_and_again() {
    let servers = servers(1);
    let route = route(&servers, "a");
    for parting in [Parting::Gone, Parting::Drained, Parting::Refused(Duration::from_secs(9)), Parting::Taken] {
        let server = dial(&route);
        assert_eq!((server, route.ended(parting)), (([10, 0, 0, 1], 50_051).into(), Retry::Later));
    }
    open(&route, Some(0.1));
    assert_eq!(better(&route), None);
}

proptest! {
    /// Whatever happens in whatever order: a camera always has a server to
    /// dial, moves only to one that is there, and streams are counted right.
    #[test]
    fn always_somewhere(steps in prop::collection::vec((0usize..3, 0u8..6, 1u32..20), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let servers = servers(4);
            let routes: Vec<_> = (0..3).map(|number| route(&servers, &format!("cam-{number}"))).collect();
            let mut is_open = [false; 3];
            for (camera, step, amount) in steps {
                let route = &routes[camera];
                match step {
                    0 if !is_open[camera] => {
                        dial(route);
                        open(route, Some(amount as f32));
                        is_open[camera] = true;
                    }
                    1 => {
                        route.ended(Parting::Gone);
                        is_open[camera] = false;
                    }
                    2 => {
                        route.ended(Parting::Refused(Duration::from_secs(amount.into())));
                        is_open[camera] = false;
                    }
                    3 => {
                        route.ended(Parting::Drained);
                        is_open[camera] = false;
                    }
                    4 if is_open[camera] => if let Some((to, _)) = better(route) {
                        assert!(servers.known().iter().any(|(known, is_absent)| known.address == to && !is_absent));
                        assert_ne!(route.lock().current, Some(to));
                        go(route);
                        open(route, Some(amount as f32));
                    },
                    _ => tokio::time::advance(Duration::from_secs(amount.into())).await,
                }
                let streams: u64 = servers.streams().values().sum();
                assert_eq!(streams, is_open.iter().filter(|open| **open).count() as u64);
            }
        });
    }
}
