//! Which cores the measured programs run on, and which the load comes from, so
//! that the one is not measured with the other.

use std::io;

use libc::cpu_set_t;

/// Two sets of cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Of the measured program.
    pub server: Vec<usize>,
    /// Of the load generator; the same cores when there are no others.
    pub generator: Vec<usize>,
}

impl Cores {
    /// The first `server` of the cores that this process may use, at least one,
    /// for the measured program, and the others for the load.
    ///
    /// # Errors
    /// When the system does not say which cores may be used.
    pub fn split(server: usize) -> io::Result<Self> {
        Ok(Self::split_of(allowed()?, server))
    }

    fn split_of(mut allowed: Vec<usize>, server: usize) -> Self {
        let generator = allowed.split_off(server.clamp(1, allowed.len()));
        if generator.is_empty() {
            return Self { generator: allowed.clone(), server: allowed };
        }
        Self { server: allowed, generator }
    }

    /// What a person should know of the split.
    pub fn description(&self) -> String {
        if self.server == self.generator {
            return format!("server and load share the cores {:?}: they disturb each other", self.server);
        }
        format!("server on cores {:?}, load from cores {:?}", self.server, self.generator)
    }
}

/// Cores that this process may use.
///
/// # Errors
/// When the system does not say.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: a cpu_set_t is a bit mask, for which zero is a value.
    let mut set: cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a set of the size given.
    if unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every index is below the size of the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// Binds the calling thread, and those that it starts, to `cores`.
///
/// # Errors
/// When the system refuses.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    pin_to(0, &set_of(cores))
}

/// Binds every thread of this process, and those that they start, to `cores`.
///
/// # Errors
/// When the system refuses.
pub fn pin_process(cores: &[usize]) -> io::Result<()> {
    let set = set_of(cores);
    for task in std::fs::read_dir("/proc/self/task")? {
        let Some(thread) = task?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match pin_to(thread, &set) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            bound => bound?,
        }
    }
    Ok(())
}

fn set_of(cores: &[usize]) -> cpu_set_t {
    // SAFETY: a cpu_set_t is a bit mask, for which zero is a value.
    let mut set: cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores {
        // SAFETY: the core comes from a set of this size.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    set
}

/// Binds a thread of this process; 0 is the calling one.
fn pin_to(thread: libc::pid_t, set: &cpu_set_t) -> io::Result<()> {
    // SAFETY: the pointer is to a set of the size given.
    match unsafe { libc::sched_setaffinity(thread, size_of::<cpu_set_t>(), set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `command` start bound to `cores` and end when this process does,
/// however that ends.
pub fn bind(command: &mut tokio::process::Command, cores: &[usize]) {
    let set = set_of(cores);
    // SAFETY: between fork and exec only two system calls are made, which
    // neither allocate nor lock.
    unsafe {
        command.pre_exec(move || {
            pin_to(0, &set)?;
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_by_table() {
        for (allowed, server, expected_server, expected_generator) in [
            (vec![0, 1], 1, vec![0], vec![1]),
            (vec![4], 1, vec![4], vec![4]),
            (vec![0, 2, 5, 7], 2, vec![0, 2], vec![5, 7]),
            (vec![0, 1], 0, vec![0], vec![1]),
            (vec![0, 1], 9, vec![0, 1], vec![0, 1]),
        ] {
            let cores = Cores::split_of(allowed.clone(), server);
            assert_eq!((cores.server, cores.generator), (expected_server, expected_generator), "{allowed:?} {server}");
        }
    }

    #[tokio::test]
    async fn a_bound_program_sees_its_cores() {
        let cores = Cores::split(1).expect("the system says which cores there are");
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "grep Cpus_allowed_list /proc/self/status"]);
        bind(&mut command, &cores.server);
        let seen = command.output().await.expect("sh runs");
        let seen = String::from_utf8_lossy(&seen.stdout).trim().to_owned();
        assert!(seen.ends_with(&format!("\t{}", cores.server[0])), "{seen}");
    }
}
