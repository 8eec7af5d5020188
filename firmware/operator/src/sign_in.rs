//! Signing in.
//!
//! Job: hold each request against who asks, and check passwords. Place: between the server and the acts. Invariants: one
//! password is checked at a time; every attempt that is looked at is in the ledger, or in the log where
//! the ledger can't be written: whoever mends a broken disk must get in, and every change asks the ledger again; an unknown name is told, and takes,
//! what a wrong password does. A crash leaves nothing behind: a sign-in ends with its connection.

use crate::{Appliance, Caller, Fault, Operator, Refusal, Request, Response, Secret, operate::stopped, password};
use serde_json::json;
use std::time::Instant;

impl<A: Appliance> Operator<A> {
    /// Carries out what `caller` asks for, if it may.
    ///
    /// # Errors
    /// Why it is not done, in two halves.
    pub async fn ask(&self, caller: &mut Caller, request: Request) -> Result<Response, Refusal> {
        let setting_up = self.appliance.ledger().is_ok() && !self.appliance.facts().administrator;
        caller.permit(&request, setting_up, Instant::now())?;
        match request {
            Request::SignIn { name, password } => self.sign_in(caller, name, password).await,
            Request::SignOut => {
                caller.end();
                Ok(Response::SignedOut)
            }
            request => self.handle(&caller.actor(), request).await,
        }
    }

    /// Checks a password. An unknown name takes as long as a wrong password and is told the same.
    async fn sign_in(&self, caller: &mut Caller, name: String, password: Secret) -> Result<Response, Refusal> {
        // Without it there are no settings either, which name the operators.
        self.appliance.ledger()?;
        let mut gate = self.gate.lock().await;
        gate.admit(Instant::now())?;
        let operators = self.appliance.settings().0.operators.clone();
        let known = operators.iter().find(|operator| operator.name == name);
        let hash = known.or(operators.first()).and_then(|operator| operator.password.clone()).unwrap_or_default();
        let right = tokio::task::spawn_blocking(move || password::is_right(password.expose(), &hash)).await;
        let right = right.map_err(stopped)?;
        caller.end();
        if known.is_some() && right {
            let unrecorded = self.try_to_record(&caller.actor(), "sign_in", &name, json!({})).await;
            gate.succeeded();
            caller.begin(&name, Instant::now());
            return Ok(Response::SignedIn { name, unrecorded });
        }
        gate.failed(Instant::now());
        caller.fail();
        // People type passwords where a name is asked for: only names that we know are written down.
        let subject = known.map(|operator| operator.name.clone()).unwrap_or_default();
        let _ = self.try_to_record(&caller.actor(), "sign_in.refused", &subject, json!({})).await;
        Err(Refusal::new(Fault::Refused, "name or password is wrong", "check both and type them again"))
    }
}
