//! Real applications behind the live end.

use std::os::fd::AsFd as _;

use super::super::LiveError;
use super::super::forward::Target;
use super::super::relay::{self, Relay};
use super::{RELAY, Run};
use crate::sys;

impl<'a> Run<'a> {
    /// Connects a conversation that is to be handed on to its application.
    pub(super) fn reach_application(&mut self, index: usize) -> Result<(), LiveError> {
        let Some(target) = self.target(index) else { return Ok(()) };
        match target.reach(relay::connect) {
            Ok(app) => {
                let token = RELAY + index as u64;
                self.epoll.add(app.as_fd(), token).map_err(LiveError::system("wait for an application"))?;
                self.states[index].responder.forward(Relay::new(app));
            }
            Err(error) => self.states[index].responder.fail(format!("its application cannot be reached: {error}")),
        }
        Ok(())
    }

    /// The application that answers a conversation.
    fn target(&self, index: usize) -> Option<Target<'a>> {
        self.states[index].forwarded_to.as_ref()?;
        self.targets.find(self.script.flows[index].server.port()).map(|(_, target)| target)
    }

    /// Goes on with what an application has said.
    pub(super) fn serve_application(&mut self, index: usize) -> Result<(), LiveError> {
        let flow = &self.script.flows[index];
        let live = flow.live(self.options.dut);
        if let (Some(app), Some(socket)) = (&self.states[index].relay, self.datagram_of.get(&live)) {
            let (app, socket) = (app.try_clone().map_err(LiveError::system("read from an application"))?, *socket);
            let mut room = vec![0; 65_536];
            loop {
                match app.recv(&mut room) {
                    Ok(len) => {
                        self.touch(index, sys::monotonic_ns());
                        // A full queue loses datagrams, as any network does.
                        _ = self.datagrams[socket].send_to(&room[..len], flow.played(self.options.dut));
                        self.states[index].responder.answered(flow, &room[..len]);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) if relay::is_early(&error) => break,
                    Err(error) => {
                        self.states[index].responder.fail(format!("its application cannot be reached: {error}"));
                        break;
                    }
                }
            }
        }
        self.serve(index)
    }

    /// Hands a datagram on to the application.
    pub(super) fn forward_datagram(&mut self, index: usize, bytes: &[u8]) -> Result<(), LiveError> {
        let Some(target) = self.target(index) else { return Ok(()) };
        if self.states[index].relay.is_none() {
            match target.reach(relay::datagrams) {
                Ok(app) => {
                    let token = RELAY + index as u64;
                    self.epoll.add(app.as_fd(), token).map_err(LiveError::system("wait for an application"))?;
                    self.states[index].relay = Some(app);
                }
                Err(error) => {
                    self.states[index].responder.fail(format!("its application cannot be reached: {error}"));
                }
            }
        }
        let state = &mut self.states[index];
        // What an application has no room for is lost, as in any network; that there is none is told when it is read.
        _ = state.relay.as_ref().map(|app| app.send(bytes));
        Ok(())
    }
}
