//! A network for the services: two hosts (network namespaces) with a wire
//! between them that can lose, throttle and partition, a second wire with a
//! delay of our own ([`crate::wire`]), and a way for the harness to each host
//! that no fault touches. All of it lives in namespaces of this process and
//! vanishes with it.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::wire::Wire;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Beside the harness, on loopback.
    Loopback,
    /// The server's host.
    Server,
    /// The cameras' host.
    Camera,
}

/// The server's end of the wire that faults hit, and of the wire with a delay.
pub const SERVER_DATA: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 1);
pub const SERVER_FAR: Ipv4Addr = Ipv4Addr::new(10, 231, 3, 1);

/// Set up while it lives.
pub struct Network {
    /// The wire with a delay.
    pub wire: Result<Wire, String>,
}

impl Host {
    fn namespace(self) -> Option<&'static str> {
        match self {
            Self::Loopback => None,
            Self::Server => Some("server"),
            Self::Camera => Some("camera"),
        }
    }

    /// What starts a program there.
    pub fn starter(self) -> Vec<String> {
        self.namespace().map_or_else(Vec::new, |name| ["ip", "netns", "exec", name].map(String::from).into())
    }

    /// Where the harness reaches what listens there on all addresses.
    pub fn reached_at(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Server => Ipv4Addr::new(10, 231, 1, 2),
            Self::Camera => Ipv4Addr::new(10, 231, 2, 2),
        }
    }

    /// Where a program there listens so that it is reached.
    pub fn listens_at(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Server | Self::Camera => Ipv4Addr::UNSPECIFIED,
        }
    }
}

impl Network {
    /// Moves this process into namespaces of its own and sets all up. To be
    /// called while there is one thread.
    ///
    /// # Errors
    /// Why it cannot be had here, for a person.
    pub fn enter() -> Result<Self, String> {
        // SAFETY: no arguments, no failure.
        if unsafe { libc::geteuid() } != 0 {
            return Err("needs root (network namespaces)".into());
        }
        // SAFETY: takes flags only; there is one thread, so all of it moves.
        if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
            return Err(format!("namespaces are not allowed here: {}", std::io::Error::last_os_error()));
        }
        Self::set_up().map_err(|error| format!("{error:#}"))
    }

    fn set_up() -> anyhow::Result<Self> {
        // From here on nothing that is mounted shows outside.
        run("mount --make-rprivate /")?;
        run("mkdir -p /run/netns")?;
        run("mount -t tmpfs -o size=64k faults-netns /run/netns")?;
        run("ip link set lo up")?;
        for (host, net) in [(Host::Server, 1), (Host::Camera, 2)] {
            let name = host.namespace().context("both have one")?;
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip link add {name} type veth peer name mgmt netns {name}"))?;
            run(&format!("ip addr add 10.231.{net}.1/24 dev {name}"))?;
            run(&format!("ip link set {name} up"))?;
            run(&format!("ip -n {name} addr add 10.231.{net}.2/24 dev mgmt"))?;
            run(&format!("ip -n {name} link set mgmt up"))?;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        run("ip -n server link add data type veth peer name data netns camera")?;
        for (name, end) in [("server", 1), ("camera", 2)] {
            run(&format!("ip -n {name} addr add 10.231.0.{end}/24 dev data"))?;
            run(&format!("ip -n {name} link set data up"))?;
        }
        let wire = Wire::open("far-server", "far-camera").and_then(|wire| {
            for (name, end) in [("server", 1), ("camera", 2)] {
                run(&format!("ip link set far-{name} netns {name}"))?;
                run(&format!("ip -n {name} addr add 10.231.3.{end}/24 dev far-{name}"))?;
                run(&format!("ip -n {name} link set far-{name} up"))?;
            }
            Ok(wire)
        });
        Ok(Self { wire: wire.map_err(|error| format!("no wire with a delay: {error:#}")) })
    }
}

/// Packet filter rules on the wire that faults hit; gone when dropped.
pub struct Rules(Host);

impl Rules {
    /// Both directions at `host`: `rule` is what nft says after the interface,
    /// such as `drop` or `tcp flags rst drop`.
    ///
    /// # Errors
    /// When nft is not there or refuses.
    pub fn set(host: Host, rule: &str) -> anyhow::Result<Self> {
        let chain = |hook: &str, side: &str| {
            format!("chain {hook} {{\ntype filter hook {hook} priority 0\npolicy accept\n{side} \"data\" {rule}\n}}\n")
        };
        let text = format!("table inet fault {{\n{}{}}}\n", chain("input", "iifname"), chain("output", "oifname"));
        let name = host.namespace().context("rules are for a host of its own")?;
        let mut nft = Command::new("ip")
            .args(["netns", "exec", name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        nft.stdin.take().context("it is a pipe")?.write_all(text.as_bytes())?;
        let output = nft.wait_with_output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self(host))
    }

    /// Loses packets in both directions, in percent.
    ///
    /// # Errors
    /// As [`Rules::set`].
    pub fn loss(percent: u32) -> anyhow::Result<Self> {
        Self::set(Host::Camera, &format!("numgen random mod 100 < {percent} drop"))
    }

    /// Nothing passes, nothing is refused.
    ///
    /// # Errors
    /// As [`Rules::set`].
    pub fn partition() -> anyhow::Result<Self> {
        Self::set(Host::Camera, "drop")
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        if let Some(name) = self.0.namespace()
            && let Err(error) = run(&format!("ip netns exec {name} nft delete table inet fault"))
        {
            eprintln!("faults: rules stay at {name}: {error:#}");
        }
    }
}

/// A rate limit on both ends of the wire; gone when dropped.
pub struct Throttle;

impl Throttle {
    /// At most `rate` (as tc writes it) in each direction. The queue in front
    /// holds 200 ms, as a modem's does.
    ///
    /// # Errors
    /// When the kernel or tc refuses.
    pub fn set(rate: &str) -> anyhow::Result<Self> {
        let throttle = Self;
        for name in ["server", "camera"] {
            run(&format!("tc -n {name} qdisc replace dev data root tbf rate {rate} burst 16kb latency 200ms"))?;
        }
        Ok(throttle)
    }

    /// Packets that had to wait or were lost on their way from the cameras.
    ///
    /// # Errors
    /// When tc does not say.
    pub fn held_back(&self) -> anyhow::Result<u64> {
        let output = Command::new("tc").args(["-n", "camera", "-s", "qdisc", "show", "dev", "data"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let after = text.split_once("overlimits ").context("tc counts what it held back")?.1;
        Ok(after.split_whitespace().next().unwrap_or_default().parse()?)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        for name in ["server", "camera"] {
            if let Err(error) = run(&format!("tc -n {name} qdisc del dev data root")) {
                eprintln!("faults: the rate limit stays at {name}: {error:#}");
            }
        }
    }
}

/// Runs a command line without quotes.
///
/// # Errors
/// When it is not there or fails, with what it said.
pub fn run(line: &str) -> anyhow::Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Whether a program can be run at all.
pub fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
