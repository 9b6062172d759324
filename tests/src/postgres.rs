//! PostgreSQL in a directory of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Sandbox, nobody, ports, process::Process, programs, skip, wait};

/// How long a start may take, with recovery, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// The role of the tests, which owns everything.
pub const USER: &str = "plant";
/// Its password.
pub const PASSWORD: &str = "open-sesame";

/// A server that is killed and comes back with the same tables on the same port.
#[derive(Debug)]
pub struct PostgresServer {
    /// Where it listens.
    pub port: u16,
    programs: PathBuf,
    dir: PathBuf,
    process: Process,
}

impl PostgresServer {
    /// Starts one; `None`, said aloud, where the program is missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        let Some(programs) = programs::postgres() else {
            skip::missing_program("postgres");
            return None;
        };
        let (port, dir) = (ports::free(), sandbox.path("postgres"));
        nobody::dir(sandbox, &dir);
        fs::write(dir.join("password"), PASSWORD).expect("the sandbox takes a file");
        let output = nobody::run(Command::new(programs.join("initdb")))
            .args(["--username", USER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .args(["--pwfile".as_ref(), dir.join("password").as_os_str()])
            .args(["--pgdata".as_ref(), dir.join("data").as_os_str()])
            .output()
            .expect("initdb runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initdb: {said}");
        let process = spawn(&programs, &dir, port);
        let server = Self {
            port,
            programs,
            dir,
            process,
        };
        server.wait_until_ready();
        Some(server)
    }

    /// What a statement prints, a row a line.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn query(&self, statement: &str) -> String {
        let output = self.psql(statement);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {said}");
        String::from_utf8(output.stdout).expect("the database has UTF-8")
    }

    /// Somebody else's connection, as this role, which stays until the server or the owner
    /// ends it.
    pub fn occupy(&self, role: &str) -> Process {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .env("PGPASSWORD", PASSWORD)
            .args(["--no-psqlrc", "--host", "127.0.0.1"])
            .args(["--port", &self.port.to_string()])
            .args(["--username", role, "--dbname", "postgres"])
            .args(["--command", "SELECT pg_sleep(3600)"]);
        Process::spawn(command, "psql", &self.dir.join("sessions.log"))
    }

    /// Writes what a query gives into a new directory, one event a line.
    pub fn dump(&self, sandbox: &Sandbox, name: &str, query: &str) -> PathBuf {
        let dir = sandbox.path(&format!("{name}-dump"));
        fs::create_dir_all(&dir).expect("the sandbox takes a directory");
        fs::write(dir.join("all.ndjson"), self.query(query)).expect("the sandbox takes a file");
        dir
    }

    /// Lets the server show this certificate (PEM) with its key, to those who ask.
    pub fn show(&self, certificate: &Path, key: &Path) {
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = self.dir.join("data").join(name);
            fs::copy(from, &to).expect("the sandbox takes a file");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("it is ours");
            nobody::own(&to);
        }
        self.query("ALTER SYSTEM SET ssl = on");
        self.query("SELECT pg_reload_conf()");
        wait::until(START, "the certificate to be shown", || {
            (self.query("SHOW ssl").trim() == "on").then_some(())
        });
    }

    /// `kill -9` of the server; what it was doing for clients ends with it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again in the same place, over what is left of the one that was killed.
    pub fn start_again(&mut self) {
        wait::until(START, "what was left of the server to end", || {
            self.process = spawn(&self.programs, &self.dir, self.port);
            // One that finds another at work says so, and ends at once.
            wait::until(START, "the server to answer or to end", || {
                match self.process.ended() {
                    Some(_) => Some(None),
                    None => self.is_ready().then_some(Some(())),
                }
            })
        });
    }

    fn wait_until_ready(&self) {
        wait::until(START, "PostgreSQL to answer", || {
            self.is_ready().then_some(())
        });
    }

    fn is_ready(&self) -> bool {
        self.psql("SELECT 1").status.success()
    }

    fn psql(&self, statement: &str) -> std::process::Output {
        Command::new(self.programs.join("psql"))
            .env("PGPASSWORD", PASSWORD)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--username", USER, "--dbname", "postgres"])
            .args(["--set", "ON_ERROR_STOP=1", "--command", statement])
            .output()
            .expect("psql runs")
    }
}

fn spawn(programs: &Path, dir: &Path, port: u16) -> Process {
    let mut command = nobody::run(Command::new(programs.join("postgres")));
    command
        .current_dir(dir)
        .args(["-D".as_ref(), dir.join("data").as_os_str()])
        .args(["-p", &port.to_string()])
        .args(["-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories="]);
    Process::spawn(command, "postgres", &dir.join("server.log"))
}
