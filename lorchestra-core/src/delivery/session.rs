//! A destination that is used more than once, with its state between deliveries. Talks only to the destination.

use super::destination::{DeliveryError, Destination};

/// A destination, whether it is connected, and its last error: kept between deliveries.
#[derive(Debug)]
pub struct Session<D> {
    pub(super) destination: D,
    pub(super) connected: bool,
    pub(super) trouble: Option<String>,
}

impl<D> Session<D> {
    /// Creates a session with an unconnected destination.
    pub fn new(destination: D) -> Self {
        Self { destination, connected: false, trouble: None }
    }

    /// Returns the last error since a batch landed, which explains slow delivery.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The destination.
    pub fn destination(&self) -> &D {
        &self.destination
    }
}

impl<D: Destination> Session<D> {
    /// Connects if not yet connected.
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
