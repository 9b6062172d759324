//! `device-sim`: see `device-sim --help`.

fn main() -> std::process::ExitCode {
    device_sim::main(std::env::args_os())
}
