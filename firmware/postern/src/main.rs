//! The one binary of the appliance.
//!
//! Job: `postern run` is the daemon; everything else is an operator's command. Place: the table of contents of both.
//! Invariants: no key exists before core dumps are forbidden; sockets open last. A crash leaves what each stage says of
//! itself.

mod acceptors;
mod appliance;
mod build;
mod daemon;
mod deliveries;
mod health;
mod helper;
mod identity;
mod image;
mod journal;
mod judging;
mod listeners;
mod live;
mod machine;
mod pipeline;
mod plain;
mod run;
mod safe;
mod test_message;
mod told;
mod updates;
mod worker;

use clap::{Parser, Subcommand};
use image::Image;
use operator::{
    cli::{self, Face},
    console::{self, Description},
};
use std::{path::PathBuf, process::ExitCode};

/// Postern, the secure-mail gateway
#[derive(Parser)]
#[command(name = "postern", version, propagate_version = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    face: Face,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The daemon
    Run(Box<run::Arguments>),
    /// What needs root; started by systemd only
    #[command(hide = true)]
    Helper(helper::Arguments),
    /// Whether the image that runs stays; started by systemd only
    #[command(hide = true)]
    Trial(health::trial::Arguments),
    /// One judging process; started by the daemon only
    #[command(hide = true)]
    Worker,
    /// The console: first questions, status, and what an operator in front of the box may do
    Console {
        /// What the image says of itself (JSON); without it the program speaks for itself
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
    },
    #[command(flatten)]
    Operator(cli::Command),
}

fn main() -> ExitCode {
    let Arguments { face, command } = Arguments::parse();
    match command {
        Command::Run(arguments) => run::run(*arguments, face.socket()),
        Command::Helper(arguments) => helper::run(arguments),
        Command::Trial(arguments) => health::trial::run(&arguments, &face.socket()),
        Command::Worker => worker::main(),
        Command::Console { image } => {
            let Image { version, development, .. } = Image::of(image.as_deref());
            console::run(face.socket(), Description { version, development })
        }
        Command::Operator(command) => cli::run(command, &face),
    }
}
