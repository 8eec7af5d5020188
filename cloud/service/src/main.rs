//! `postern-cloud`: the service and its admin commands.

mod cli;
mod log_lines;

use clap::Parser;
use cli::{Appliances, Cli, Codes, Command, Serve, Store, TenantCommand};
use postern_cloud::{Admin, Config, Error, Service};
use std::{io::Write, net::TcpListener, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    log_lines::start();
    log_lines::only_places_of_panics();
    match run(cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "postern-cloud: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Serve(serve) => run_service(serve).await,
        Command::Tenant(TenantCommand::Add { store, id, name }) => open(&store).await?.tenants.add(&id, &name).await,
        Command::Tenant(TenantCommand::List { store }) => {
            let rows = open(&store).await?.tenants.list().await?;
            print(rows.iter().map(|row| format!("{}\t{}", row.id, row.name)))
        }
        Command::Code(Codes::Issue { store, tenant, valid_minutes }) => {
            let valid = Duration::from_secs(valid_minutes.saturating_mul(60));
            let code = open(&store).await?.tenants.issue_code(&tenant, valid).await?;
            print([code])
        }
        Command::Appliance(Appliances::List { store }) => {
            let rows = open(&store).await?.tenants.appliances().await?;
            let state = |revoked| if revoked { "revoked" } else { "enrolled" };
            print(
                rows.iter().map(|row| format!("{}\t{}\t{}\t{}", row.id, row.tenant, state(row.revoked), row.software)),
            )
        }
        Command::Appliance(Appliances::Revoke { store, id }) => open(&store).await?.tenants.revoke(&id).await,
    }
}

async fn open(store: &Store) -> Result<Admin, Error> {
    Admin::open(&store.data, &store.master_key()).await
}

fn print(lines: impl IntoIterator<Item = String>) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}").map_err(|source| Error::File { path: "standard output".into(), source })?;
    }
    Ok(())
}

async fn run_service(serve: Serve) -> Result<(), Error> {
    let bind = |address| TcpListener::bind(address).map_err(|source| Error::Listen { address, source });
    let (api, portal) = (bind(serve.api)?, bind(serve.portal)?);
    let config = Config {
        master_key: serve.store.master_key(),
        data: serve.store.data.clone(),
        portal_url: serve.portal_url.clone(),
        smtp: serve.smtp(),
        tls: serve.tls(),
        names: serve.name.clone(),
    };
    let signals = |kind| signal(kind).map_err(|source| Error::File { path: "signal handler".into(), source });
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let service = Service::start(config, api, portal).await?;
    log::info!("event=ready api={} portal={} url={}", service.api, service.portal, service.portal_url);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info!("event=stopping");
    service.stop().await;
    Ok(())
}
