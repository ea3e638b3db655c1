//! `inference-service certs init | server | issue`: a private authority for
//! homes and tests, and certificates of it. Prints paths, never a key.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use flatframe_shared::frame::CameraId;

use crate::certs::{Authority, CertError, Issued, Purpose, is_server_name};

/// Days that a certificate is good, unless said otherwise.
const DAYS: u64 = 730;
/// Names by which every server is reached from itself.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What to make.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make an authority, and the server's certificate.
    Init(ServerArgs),
    /// Make the server's certificate anew.
    Server(ServerArgs),
    /// Make the certificate of a box with cameras, or make it anew.
    Issue(IssueArgs),
}

/// Where, and for how long.
#[derive(Debug, clap::Args)]
struct Place {
    /// The folder of the authority. Its ca.key makes certificates: keep it off
    /// the server and the cameras.
    #[arg(long, value_name = "FOLDER", default_value = "certs")]
    dir: PathBuf,
    /// Days that the certificate is good.
    #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u64).range(1..=7300))]
    days: u64,
}

/// Which server.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    #[command(flatten)]
    place: Place,
    /// A name or address by which the server is reached; may be repeated. This
    /// machine's own names come besides.
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
}

/// Which box.
#[derive(Debug, clap::Args)]
pub struct IssueArgs {
    /// What the files are called; the camera's id, unless --camera says more.
    name: String,
    /// A camera that the box may publish as; may be repeated.
    #[arg(long, value_name = "ID")]
    camera: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Does what was asked; paths go to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(command: &CertsCommand, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let done = match command {
        CertsCommand::Init(args) => server(args, Authority::init),
        CertsCommand::Server(args) => server(args, Authority::open),
        CertsCommand::Issue(args) => Authority::open(&args.place.dir).and_then(|authority| cameras(&authority, args)),
    };
    match done {
        Ok(lines) => {
            out.write_all(lines.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("inference-service: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn server(args: &ServerArgs, authority: fn(&Path) -> Result<Authority, CertError>) -> Result<String, CertError> {
    let names = args.name.iter().cloned().chain(own_names());
    let mut unique: Vec<String> = Vec::new();
    names.for_each(|name| {
        if !unique.contains(&name) {
            unique.push(name);
        }
    });
    let reached = unique.join(", ");
    let purpose = Purpose::Server(unique);
    // Before there is an authority: it is made once.
    purpose.check()?;
    let authority = authority(&args.place.dir)?;
    let Issued { cert, key } = authority.issue("server", &purpose, good_for(&args.place))?;
    let (cert, key, ca) = (cert.display(), key.display(), authority.ca());
    Ok(format!("# {reached}\n[tls]\ncert = \"{cert}\"\nkey = \"{key}\"\nclient_ca = \"{}\"\n", ca.display()))
}

fn cameras(authority: &Authority, args: &IssueArgs) -> Result<String, CertError> {
    let ids = if args.camera.is_empty() { std::slice::from_ref(&args.name) } else { &args.camera[..] };
    let cameras: Result<Vec<_>, _> = ids
        .iter()
        .map(|id| CameraId::parse(id).map_err(|error| CertError::Name { name: id.clone(), reason: error.to_string() }))
        .collect();
    let Issued { cert, key } = authority.issue(&args.name, &Purpose::Cameras(cameras?), good_for(&args.place))?;
    let (cert, key, ca) = (cert.display(), key.display(), authority.ca());
    Ok(format!("# {}\n[server]\nca = \"{}\"\ncert = \"{cert}\"\nkey = \"{key}\"\n", ids.join(", "), ca.display()))
}

fn good_for(place: &Place) -> Duration {
    Duration::from_secs(place.days * 24 * 3600)
}

/// By which this machine is reached in a local network.
fn own_names() -> Vec<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    // A host may be called what no client takes for a name, such as a number.
    let named = [host.to_owned(), format!("{host}.local")].into_iter().filter(|name| is_server_name(name));
    OWN_NAMES.map(str::to_owned).into_iter().chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_leaves_no_authority_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("certs");
        let args = |name: &str| ServerArgs { place: Place { dir: dir.clone(), days: 1 }, name: vec![name.to_owned()] };
        let refused = server(&args("https://server.lan:50051"), Authority::init);
        assert!(matches!(refused, Err(CertError::Name { .. })), "{refused:?}");
        assert!(!dir.exists());
        let made = server(&args("server.lan"), Authority::init).expect("made");
        assert!(made.contains("server.lan") && made.contains("localhost"), "{made}");
    }
}
