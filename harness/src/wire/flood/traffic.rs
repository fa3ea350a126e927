//! The frames of a source as they enter the network.

use crate::capture::{Frame, Side};
use crate::wire::WireError;
use crate::wire::place::{Link, Place, readdress};
use crate::wire::source::Source;

/// A source, and the links that its frames enter.
pub(in crate::wire) struct Traffic<'a> {
    source: &'a mut dyn Source,
    place: &'a Place,
    frame: Frame,
    side: usize,
    /// The frame was given out and could not be used.
    kept: bool,
    /// Frames for which there is no link, once through the source.
    pub(super) withheld: u64,
    /// It is not the first time through.
    again: bool,
}

impl<'a> Traffic<'a> {
    pub(in crate::wire) fn new(source: &'a mut dyn Source, place: &'a Place) -> Self {
        Self { source, place, frame: Frame::default(), side: 0, kept: false, withheld: 0, again: false }
    }

    /// The next frame with its side, addressed as its link needs it.
    pub(super) fn next(&mut self) -> Result<Option<(usize, &Frame)>, WireError> {
        if std::mem::take(&mut self.kept) {
            return Ok(Some((self.side, &self.frame)));
        }
        while self.source.next_into(&mut self.frame).map_err(WireError::Frames)? {
            let Some((side, link)) = self.link() else {
                self.withheld += u64::from(!self.again);
                continue;
            };
            let largest = link.far.largest_frame(&self.frame.data);
            if !(14..=largest).contains(&self.frame.data.len()) {
                return Err(WireError::Refused {
                    packet: self.frame.number,
                    len: self.frame.data.len(),
                    largest,
                    interface: link.far.name.clone(),
                    source: std::io::Error::from_raw_os_error(libc::EMSGSIZE),
                });
            }
            if !link.dut.bridged {
                readdress(&mut self.frame.data, link);
            }
            self.side = side;
            return Ok(Some((side, &self.frame)));
        }
        Ok(None)
    }

    fn link(&self) -> Option<(usize, &'a Link)> {
        match self.frame.side {
            Side::Client => Some((0, &self.place.client)),
            Side::Server => self.place.server.as_ref().map(|link| (1, link)),
        }
    }

    /// Gives the last frame out once more.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Goes back to the first frame.
    pub(super) fn rewind(&mut self) -> Result<(), WireError> {
        (self.kept, self.again) = (false, true);
        self.source.rewind().map_err(WireError::Frames)
    }

    /// Goes back to the first frame, as if none had been given out.
    pub(super) fn start_over(&mut self) -> Result<(), WireError> {
        self.rewind()?;
        (self.withheld, self.again) = (0, false);
        Ok(())
    }
}
