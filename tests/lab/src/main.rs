//! `lab run`, `lab demo`, `lab bench`: what `make run`, `make demo` and `make bench` start.

#![expect(clippy::print_stdout, reason = "the lab talks to the person at the terminal")]

use clap::{Parser, Subcommand};
use lab::{bench, demo, layout::Layout, run};
use std::{io, process::ExitCode};

/// A whole Postern on one machine
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything and stay in the foreground; Ctrl-C stops it
    Run,
    /// Send real mails through a lab of its own and compare what happened with what must happen
    Demo,
    /// Measure speed and memory beside Postfix
    Bench {
        /// Leave out the benchmarks of single crates
        #[arg(long)]
        relay: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run => Layout::from_environment().and_then(run::run).map(|()| true),
        Command::Demo => demo::run(),
        Command::Bench { relay } => run_bench(!relay).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_bench(crates: bool) -> io::Result<()> {
    let folder = tempfile::Builder::new().prefix("postern-bench").tempdir()?;
    let figures = bench::run(folder.path(), lab::process::free_port_base()?, crates)?;
    for (name, value) in &figures {
        println!("{name:<42} {value:>12.2}");
    }
    let file = bench::figures_file();
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&file, serde_json::to_string_pretty(&figures)?)?;
    println!("\nwritten to target/bench.json");
    Ok(())
}
