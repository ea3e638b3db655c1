//! Look-ups that succeed, fail, hang and change, in a paused runtime.

use std::collections::VecDeque;

use super::*;

/// What the next look-ups come to.
#[derive(Debug, Default)]
struct Script(Mutex<VecDeque<Step>>);

#[derive(Debug, Clone)]
enum Step {
    Found(Vec<SocketAddr>),
    Failed,
    After(Duration, Vec<SocketAddr>),
}

impl Resolve for Script {
    fn look_up(&self, _: String, _: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        let step = lock(&self.0).pop_front().expect("no more look-ups than planned");
        Box::pin(async move {
            match step {
                Step::Found(addresses) => Ok(addresses),
                Step::Failed => Err(std::io::Error::other("no such host")),
                Step::After(time, addresses) => {
                    tokio::time::sleep(time).await;
                    Ok(addresses)
                }
            }
        })
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 50_051))
}

fn directory(urls: &[&str], steps: Vec<Step>) -> Directory {
    let names = urls.iter().map(|url| Named::parse(url).expect("a server")).collect();
    Directory::new(names, Arc::new(Script(Mutex::new(steps.into()))))
}

fn found(directory: &Directory) -> Vec<SocketAddr> {
    directory.servers().into_iter().map(|known| known.address).collect()
}

fn counted(directory: &Directory) -> [u64; 3] {
    let counts = directory.counts();
    [&counts.good, &counts.failed, &counts.late].map(|count| count.load(Relaxed))
}

#[test]
fn names() {
    let named = |url| Named::parse(url).map(|named| (named.host, named.port));
    assert_eq!(named("http://inference:50051"), Some(("inference".into(), 50_051)));
    assert_eq!(named("http://[::1]:1"), Some(("::1".into(), 1)));
    assert_eq!(named("http://a"), Some(("a".into(), 80)));
    assert_eq!(named("https://a"), Some(("a".into(), 443)));
    assert_eq!(named("a:1"), None);
}

/// Addresses are known without a look-up: the script would panic.
#[tokio::test(start_paused = true)]
async fn an_address_is_not_looked_up() {
    let directory = directory(&["http://10.0.0.2:50051", "http://10.0.0.1:50051", "http://10.0.0.2:50051"], vec![]);
    directory.refresh().await;
    assert_eq!(found(&directory), [address(1), address(2)]);
}

#[tokio::test(start_paused = true)]
async fn asked_at_most_once_a_second_and_the_last_good_answer_holds() {
    let steps = vec![
        Step::Found(vec![address(2), address(1), address(2)]),
        Step::Failed,
        Step::Found(Vec::new()),
        Step::Found(vec![address(3)]),
    ];
    let directory = directory(&["http://inference:50051"], steps);
    for _ in 0..10 {
        directory.refresh().await;
        assert_eq!(found(&directory), [address(1), address(2)]);
    }
    for trouble in ["no such host", "has no address"] {
        tokio::time::advance(MIN_AGE).await;
        directory.refresh().await;
        assert_eq!(found(&directory), [address(1), address(2)]);
        assert!(directory.trouble().contains(trouble), "{}", directory.trouble());
    }
    tokio::time::advance(MIN_AGE).await;
    directory.refresh().await;
    assert_eq!((found(&directory), counted(&directory)), (vec![address(3)], [2, 2, 0]));
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_hangs_holds_up_nobody() {
    let hangs = Duration::from_secs(20);
    let steps = vec![Step::Found(vec![address(1)]), Step::After(hangs, vec![address(2)])];
    let directory = Arc::new(directory(&["http://inference:50051"], steps));
    directory.refresh().await;
    tokio::time::advance(MIN_AGE).await;
    // 64 cameras lost their server at once: one waits for the name, a little.
    let start = now();
    let mut cameras = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let directory = directory.clone();
        cameras.spawn(async move { directory.refresh().await });
    }
    while cameras.join_next().await.is_some() {}
    assert!(now() - start <= WAIT_WITH_ANSWER + Duration::from_millis(1), "{:?}", now() - start);
    assert_eq!((found(&directory), counted(&directory)), (vec![address(1)], [1, 0, 1]));
    // No second one is begun while it hangs: the script would panic. Its answer is taken when it comes.
    tokio::time::advance(hangs).await;
    directory.refresh().await;
    assert_eq!((found(&directory), counted(&directory)), (vec![address(2)], [2, 0, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_never_resolved_is_an_answer_too() {
    let directory = directory(&["http://inference:50051"], vec![Step::After(Duration::from_secs(3600), vec![])]);
    let start = now();
    directory.refresh().await;
    assert!(now() - start <= WAIT_WITHOUT_ANSWER + Duration::from_millis(1));
    assert!(found(&directory).is_empty() && directory.trouble().contains("not resolved within 3000 ms"));
}

#[tokio::test(start_paused = true)]
async fn no_more_servers_than_the_cap_and_each_name_for_itself() {
    let many: Vec<_> = (1..=200).map(address).collect();
    let steps = vec![Step::Found(many), Step::Found(vec![address(250)]), Step::Failed, Step::Found(vec![address(251)])];
    let directory = directory(&["http://a:50051", "http://b:50051"], steps);
    directory.refresh().await;
    assert_eq!(found(&directory).len(), MAX_SERVERS);
    assert_eq!(directory.counts().over_cap.load(Relaxed), 200 - MAX_SERVERS as u64 + 1, "of a, and the one of b");
    tokio::time::advance(MIN_AGE).await;
    directory.refresh().await;
    assert_eq!(lock(&directory.state).found[1], [address(251)], "the other name's failure does not hold it up");
    assert_eq!(lock(&directory.state).found[0].len(), MAX_SERVERS);
}
