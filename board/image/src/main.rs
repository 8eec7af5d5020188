//! `postern-image`: the command line of the image tool.
//!
//! Job: options in, a folder of files or a listing out. Exit 0 done, 1 refused or failed, 2 usage.

#![expect(clippy::print_stdout, reason = "its listings are for standard output")]

use clap::{Args, Parser, Subcommand};
use image::{
    ImageError,
    assemble::{Identity, Order, assemble},
    hex,
    keys::Keys,
    measure, policy, sha256, uki,
};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(name = "postern-image", about = "Makes and reads the firmware image", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make root.img, boot-{a,b}.vfat, disk.img, update.raucb and image.json
    Assemble(Box<Assemble>),
    /// Print what PCR 11 will hold after a boot of this kernel image, for each phase
    Predict {
        /// UKI
        uki: PathBuf,
    },
    /// Print what a kernel image holds
    Inspect {
        /// UKI or stub
        uki: PathBuf,
    },
}

#[derive(Args)]
struct Assemble {
    /// Folder of the root file system, or a squashfs of it
    #[arg(long)]
    rootfs: PathBuf,
    /// Linux, bzImage with EFI stub
    #[arg(long)]
    kernel: PathBuf,
    /// linuxx64.efi.stub of systemd
    #[arg(long)]
    stub: PathBuf,
    /// CPU microcode as an early cpio archive; may be given several times
    #[arg(long)]
    microcode: Vec<PathBuf>,
    /// Folder of keys (keys/README.md)
    #[arg(long)]
    keys: PathBuf,
    /// Version of the image
    #[arg(long)]
    version: String,
    /// Security generation
    #[arg(long, default_value_t = 1)]
    generation: u32,
    /// Lowest version that may follow
    #[arg(long, default_value = "0.0.0")]
    floor: String,
    /// rack-x86 or qemu-x86
    #[arg(long)]
    board: String,
    /// Lowest security generation for which the policy is signed
    #[arg(long, default_value_t = 1)]
    generation_floor: u32,
    /// Further kernel arguments, for tests
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    extra_cmdline: String,
    /// Folder for the files
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), ImageError> {
    match command {
        Command::Assemble(options) => {
            let Assemble { rootfs, kernel, stub, microcode, keys, version, generation, floor, board, .. } = *options;
            let Assemble { generation_floor, extra_cmdline, out, .. } = *options;
            let keys = Keys::open(&keys)?;
            let identity = Identity { version, generation, floor, development: keys.development(), board };
            assemble(&Order { rootfs, kernel, stub, microcode, keys, identity, generation_floor, extra_cmdline, out })
        }
        Command::Predict { uki } => {
            let stub = measure::sections(&uki::read_pe(&uki)?);
            for phase in measure::PHASES {
                let value = measure::phase(stub, phase);
                println!("{phase:<14} pcr11 {} policy {}", hex(&value), hex(&policy::digest(&value)));
            }
            Ok(())
        }
        Command::Inspect { uki } => inspect(&uki::read_pe(&uki)?),
    }
}

fn inspect(image: &image::pe::Pe) -> Result<(), ImageError> {
    if let Some(version) = uki::version(image) {
        println!("stub {version}");
    }
    for section in image.sections() {
        let contents = image.contents(section);
        let digest = hex(&sha256(&[&contents]));
        println!("{:<9} {:>9} bytes at {:#010x} sha256 {digest}", section.name, section.size, section.address);
        if [".osrel", ".cmdline", ".uname", ".sbat"].contains(&section.name.as_str()) {
            for line in String::from_utf8_lossy(&contents).trim_end_matches(['\0', '\n']).lines() {
                println!("          {line}");
            }
        }
    }
    Ok(())
}
