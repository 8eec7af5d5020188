//! What each request does.
//!
//! Job: the one table from requests to acts. Place: behind the socket. Invariants: every value is checked again here,
//! whatever the daemon checked; there is no act without its line. A crash leaves what each act says of itself.

use super::{
    data, network,
    place::Place,
    power,
    protocol::{HelperError, Request, Response},
    reset, update,
};
use crate::plain::{self, Plain};

/// Carries `request` out.
pub fn carry_out(request: Request, place: &Place) -> Result<Response, HelperError> {
    let done = match request {
        Request::ReadPlain => return plain::area::read(place).map(Response::Plain),
        Request::StorePlain { host, listen } => {
            plain::area::change(place, |plain| *plain = Plain { host, listen, network: plain.network.take() })
        }
        Request::ApplyNetwork { network } => network::apply(network, place),
        Request::SetTime { at } => power::set_time(at, place),
        Request::Reboot => power::reboot(place),
        Request::PowerOff => power::power_off(place),
        Request::FactoryReset { tpm_cleared } => reset::factory_reset(tpm_cleared, place),
        Request::UnlockData { passphrase } => data::unlock(&passphrase, place),
        Request::SealData { passphrase } => data::seal(&passphrase, place),
        Request::EnrolDataRecovery { passphrase } => data::enrol_recovery(&passphrase, place),
        Request::InstallBundle { source, reboot } => update::install(&source, reboot, place),
        Request::UpdateStatus => return update::status(place).map(Response::Update),
        Request::MarkGood => update::mark_good(place),
        Request::GiveUpTrial { words } => update::give_up(&words, place),
        Request::AcknowledgeUpdate => update::acknowledge(place),
    };
    done.map(|()| Response::Done)
}
