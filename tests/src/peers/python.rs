//! The Python that the peers run on: an interpreter with the packages of
//! `tests/peers/requirements.txt`, in an environment of its own that is made
//! when it is missing, and the modules generated from the proto.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// Protos that the gRPC peer needs.
const PROTOS: [&str; 3] = ["flatframe/v1/detect.proto", "flatframe/v1/results.proto", "flatframe/v1/frames.proto"];
/// Modules that must be there.
const MODULES: &str = "import cv2, flask, grpc, grpc_tools, numpy, onnxruntime, tomllib, waitress";

/// A Python that can run the peers.
#[derive(Debug, Clone)]
pub struct Python {
    /// The interpreter.
    pub interpreter: PathBuf,
    /// Folder of the generated modules.
    pub generated: PathBuf,
}

/// Folder of the peers.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

impl Python {
    /// `interpreter` as it is, or the one of an environment below `target`,
    /// which is made when it is missing: that needs Python 3.11 or later and
    /// the package index, once.
    ///
    /// # Errors
    /// When packages are missing; the message says what to do.
    pub async fn find(interpreter: Option<PathBuf>, target: &Path) -> anyhow::Result<Self> {
        let interpreter = match interpreter {
            Some(interpreter) => interpreter,
            None => environment(&target.join("peers-venv")).await?,
        };
        let complete = run(Command::new(&interpreter).args(["-c", MODULES])).await;
        complete.with_context(|| {
            let requirements = folder().join("requirements.txt");
            format!("{} lacks packages of {}", interpreter.display(), requirements.display())
        })?;
        let generated = target.join("peers-gen");
        fs::create_dir_all(&generated)?;
        let mut protoc = Command::new(&interpreter);
        protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(folder().join("../../proto"));
        for option in ["--python_out", "--grpc_python_out"] {
            protoc.arg(option).arg(&generated);
        }
        run(protoc.args(PROTOS)).await.context("generate Python modules from the proto")?;
        Ok(Self { interpreter, generated })
    }
}

/// The interpreter of the environment in `venv`, which is made or completed
/// when the requirements are not those that it was made from.
async fn environment(venv: &Path) -> anyhow::Result<PathBuf> {
    let requirements = folder().join("requirements.txt");
    let wanted = fs::read(&requirements)?;
    // Written when all is installed: half an environment is made again.
    let installed = venv.join("installed.txt");
    let interpreter = venv.join("bin/python");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(interpreter);
    }
    eprintln!(
        "peers: making a Python environment in {} and installing tests/peers/requirements.txt (once; about 400 MB)",
        venv.display()
    );
    let advice = "making the Python environment failed. It needs Python 3.11 or later with venv, and the package \
                  index: without network, name an interpreter that has tests/peers/requirements.txt installed with \
                  --python PATH or FLATFRAME_PEERS_PYTHON";
    run(Command::new("python3").args(["-m", "venv"]).arg(venv)).await.context(advice)?;
    let mut pip = Command::new(&interpreter);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    run(&mut pip).await.context(advice)?;
    fs::write(installed, wanted)?;
    Ok(interpreter)
}

/// Runs a program to its end; what it said is part of the error.
async fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let ran = ran.with_context(|| format!("run {name}"))?;
    ensure!(ran.status.success(), "{name}: {}\n{}", ran.status, String::from_utf8_lossy(&ran.stderr).trim());
    Ok(())
}
