//! A destination that is used more than once: what is known of it from one delivery to the next. Talks to the destination only.

use super::destination::{DeliveryError, Destination};

/// A destination, whether it was asked for its columns, and what it refused last: kept from one delivery to the next.
#[derive(Debug)]
pub struct Session<D> {
    pub(super) destination: D,
    pub(super) connected: bool,
    pub(super) trouble: Option<String>,
}

impl<D> Session<D> {
    /// With a destination that was not asked anything yet.
    pub fn new(destination: D) -> Self {
        Self { destination, connected: false, trouble: None }
    }

    /// Why it goes slowly, if something was refused since the last batch landed.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The destination.
    pub fn destination(&self) -> &D {
        &self.destination
    }
}

impl<D: Destination> Session<D> {
    /// Connects, if that was not done yet.
    ///
    /// # Errors
    /// Those of [`Destination::connect`].
    pub async fn connect(&mut self) -> Result<(), DeliveryError> {
        if !self.connected {
            self.destination.connect().await?;
            self.connected = true;
        }
        Ok(())
    }
}
