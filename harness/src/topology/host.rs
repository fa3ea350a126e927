//! One host: a network namespace and the thread that lives in it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle, ThreadId};

use super::address::{Mac, Prefix};
use super::error::TopologyError;
use super::ethtool::{self, Offload};
use super::namespace::Namespace;
use super::netlink::{LinkCounters, LinkState, Netlink};
use super::spec::{Role, RouteKind};
use super::sysctl;

/// What a host's thread has at hand, all of it of the host's namespace.
pub(crate) struct Context {
    pub(crate) netlink: Netlink,
    /// Carries ethtool requests; of a family that needs no protocol.
    pub(crate) socket: UnixDatagram,
}

thread_local! {
    static CONTEXT: RefCell<Option<Rc<Context>>> = const { RefCell::new(None) };
}

type Job = Box<dyn FnOnce() + Send>;

/// One host of a network. Its thread entered the host's network namespace when it began and never leaves it; what it
/// opens (sockets, netlink, `/proc/sys/net`) belongs to the host for good.
#[derive(Debug)]
pub struct Host {
    name: String,
    role: Role,
    namespace: Namespace,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    thread_id: ThreadId,
}

/// A job's result, once it is there.
pub(crate) struct Pending<R>(mpsc::Receiver<thread::Result<R>>);

impl<R> Pending<R> {
    /// Waits for it; a panic of the job goes on here.
    pub(crate) fn wait(self) -> R {
        match self.0.recv() {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(mpsc::RecvError) => unreachable!("a host's thread answers every job before it ends"),
        }
    }
}

/// A host whose thread was started and has not said yet whether its namespace is there.
pub(crate) struct Starting {
    name: String,
    role: Role,
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
    ready: mpsc::Receiver<Result<Namespace, TopologyError>>,
}

impl Starting {
    /// Starts a thread that makes the namespace and enters it.
    pub(crate) fn new(name: &str, role: Role, namespace: String) -> Result<Self, TopologyError> {
        let (jobs, queue) = mpsc::channel();
        let (said, ready) = mpsc::channel();
        let host = name.to_owned();
        let thread = thread::Builder::new()
            .name(format!("host {name}"))
            .spawn(move || match enter(&host, namespace) {
                Ok((namespace, context)) => {
                    CONTEXT.set(Some(Rc::new(context)));
                    // Nobody waits any more: the namespace goes with its value.
                    if said.send(Ok(namespace)).is_ok() {
                        serve(&queue);
                    }
                }
                Err(error) => _ = said.send(Err(error)),
            })
            .map_err(|source| kernel(name, None, "start a thread", source))?;
        Ok(Self { name: name.to_owned(), role, jobs, thread, ready })
    }

    /// Waits for the namespace.
    pub(crate) fn wait(self) -> Result<Host, TopologyError> {
        let thread_id = self.thread.thread().id();
        match self.ready.recv() {
            Ok(Ok(namespace)) => Ok(Host {
                name: self.name,
                role: self.role,
                namespace,
                jobs: Some(self.jobs),
                thread: Some(self.thread),
                thread_id,
            }),
            Ok(Err(error)) => {
                _ = self.thread.join();
                Err(error)
            }
            Err(mpsc::RecvError) => match self.thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => Err(kernel(&self.name, None, "start its thread", io::ErrorKind::BrokenPipe.into())),
            },
        }
    }
}

fn enter(host: &str, namespace: String) -> Result<(Namespace, Context), TopologyError> {
    let what = format!("make network namespace {namespace}");
    let namespace = Namespace::create(namespace).map_err(|source| kernel(host, None, what, source))?;
    namespace.enter().map_err(|source| kernel(host, None, "enter its network namespace", source))?;
    sysctl::set_known(sysctl::QUIET).map_err(|(name, source)| kernel(host, None, format!("set {name}"), source))?;
    let open = || Ok(Context { netlink: Netlink::new()?, socket: UnixDatagram::unbound()? });
    let context = open().map_err(|source| kernel(host, None, "open a netlink socket", source))?;
    Ok((namespace, context))
}

fn serve(queue: &mpsc::Receiver<Job>) {
    for job in queue {
        job();
    }
    CONTEXT.set(None);
}

/// An error of the kernel with its place.
pub(crate) fn kernel(
    host: &str,
    interface: Option<&str>,
    operation: impl Into<String>,
    source: io::Error,
) -> TopologyError {
    TopologyError::Kernel {
        operation: operation.into(),
        host: host.to_owned(),
        interface: interface.map(str::to_owned),
        source,
    }
}

impl Host {
    /// Its name in the topology.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name of its network namespace, as ip-netns(8) knows it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// The file by which other programs may enter its network namespace.
    #[must_use]
    pub fn namespace_path(&self) -> PathBuf {
        self.namespace.path()
    }

    /// The inode number of its network namespace, `net.ns.inum` in the kernel.
    #[must_use]
    pub fn netns_inode(&self) -> u32 {
        self.namespace.inode()
    }

    /// Its network namespace, for a system call.
    ///
    /// # Errors
    /// None while the network is not closed.
    pub fn namespace_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.namespace.fd()
    }

    /// Runs a closure on the host's thread and returns its result. Sockets that it opens and processes that it starts
    /// are the host's. Other calls on this host wait meanwhile: what
    /// lasts (a server) belongs on a thread of its own, by [`Host::spawn`].
    ///
    /// # Panics
    /// If the closure does, with its panic.
    pub fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        self.start(job).wait()
    }

    /// Starts a closure on a new thread in this host's namespace, which lasts at least as long as the thread.
    ///
    /// # Errors
    /// `EAGAIN` where no thread can be made.
    pub fn spawn<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<JoinHandle<R>, TopologyError> {
        // A new thread is in the namespaces of the thread that makes it.
        let name = format!("on {}", self.name);
        self.run(move || thread::Builder::new().name(name).spawn(job))
            .map_err(|source| self.error(None, "start a thread", source))
    }

    /// The number of an interface.
    ///
    /// # Errors
    /// `ENODEV` where the host has none of that name.
    pub fn ifindex(&self, interface: &str) -> Result<u32, TopologyError> {
        Ok(self.link(interface)?.index)
    }

    /// The hardware address of an interface.
    ///
    /// # Errors
    /// As [`Host::ifindex`].
    pub fn mac(&self, interface: &str) -> Result<Mac, TopologyError> {
        Ok(self.link(interface)?.mac)
    }

    /// The counters of an interface.
    ///
    /// # Errors
    /// As [`Host::ifindex`].
    pub fn counters(&self, interface: &str) -> Result<LinkCounters, TopologyError> {
        Ok(self.link(interface)?.counters)
    }

    /// The state of an interface.
    ///
    /// # Errors
    /// As [`Host::ifindex`].
    pub fn link(&self, interface: &str) -> Result<LinkState, TopologyError> {
        self.of_interface(interface, "look at it", |context, name| context.netlink.link(name))
    }

    /// The state of every interface, the loopback included.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&self) -> Result<Vec<LinkState>, TopologyError> {
        self.with(|context| context.netlink.links()).map_err(|source| self.error(None, "list interfaces", source))
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// As [`Host::ifindex`].
    pub fn addresses(&self, interface: &str) -> Result<Vec<Prefix>, TopologyError> {
        self.of_interface(interface, "list addresses", |context, name| {
            context.netlink.addresses(context.netlink.link(name)?.index)
        })
    }

    /// The offloads that an interface has on.
    ///
    /// # Errors
    /// As [`Host::ifindex`].
    pub fn offloads(&self, interface: &str) -> Result<BTreeSet<Offload>, TopologyError> {
        self.of_interface(interface, "read offloads", |context, name| ethtool::get(&context.socket, name))
    }

    /// Turns an offload on or off, and reads it back.
    ///
    /// # Errors
    /// As [`Host::ifindex`]; [unsupported](TopologyError::is_unsupported) where the driver keeps it as it was.
    pub fn set_offload(&self, interface: &str, offload: Offload, on: bool) -> Result<(), TopologyError> {
        let what = format!("turn {offload:?} {}", if on { "on" } else { "off" });
        self.of_interface(interface, &what, move |context, name| ethtool::set(&context.socket, name, offload, on))
    }

    /// The driver's statistics of an interface: `rx_queue_0_xdp_packets`, `rx_queue_0_xdp_drops`, `peer_ifindex`, ...
    ///
    /// # Errors
    /// As [`Host::ifindex`].
    pub fn ethtool_stats(&self, interface: &str) -> Result<BTreeMap<String, u64>, TopologyError> {
        self.of_interface(interface, "read statistics", |context, name| ethtool::statistics(&context.socket, name))
    }

    /// The value of a kernel parameter of the host's namespace.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has none of that name.
    pub fn sysctl(&self, name: &str) -> Result<String, TopologyError> {
        let parameter = name.to_owned();
        self.run(move || sysctl::get(&parameter)).map_err(|source| self.error(None, format!("read {name}"), source))
    }

    /// Sets a kernel parameter of the host's namespace.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has none of that name, `EINVAL` for a value it does not take.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), TopologyError> {
        let (parameter, text) = (name.to_owned(), value.to_owned());
        self.run(move || sysctl::set(&parameter, &text))
            .map_err(|source| self.error(None, format!("set {name} to {value}"), source))
    }

    /// Drops IPv6 packets that nothing else at the host has a route for. The kernel answers each of them with an ICMPv6
    /// error otherwise (`ip6_pkt_discard` in net/ipv6/route.c), also where it does not forward; of IPv4 it says nothing.
    pub(crate) fn swallow_unrouted(&self) -> Result<(), TopologyError> {
        let added = self.with(|context| context.netlink.add_route(Prefix::ALL_V6, None, None, RouteKind::Blackhole));
        match added {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(|source| self.error(None, "drop what it has no route for", source)),
        }
    }

    /// The IPv6 groups that the host's interfaces are members of, the loopback's left out.
    pub(crate) fn groups(&self) -> Result<Vec<(String, Ipv6Addr)>, TopologyError> {
        let read = self.run(|| match std::fs::read_to_string("/proc/thread-self/net/igmp6") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        });
        let text = read.map_err(|source| self.error(None, "list IPv6 groups", source))?;
        // Number and name of the interface, the address in hexadecimal, and more.
        let group = |line: &str| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let interface = fields.next().filter(|name| *name != "lo")?;
            let address = u128::from_str_radix(fields.next()?, 16).ok()?;
            Some((interface.to_owned(), Ipv6Addr::from_bits(address)))
        };
        Ok(text.lines().filter_map(group).collect())
    }

    /// Starts a closure on the host's thread.
    pub(crate) fn start<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> Pending<R> {
        let (said, result) = mpsc::sync_channel(1);
        // Nobody may wait for the result any more: it is dropped then.
        let job = move || _ = said.send(catch_unwind(AssertUnwindSafe(job)));
        match &self.jobs {
            // The thread would wait for itself.
            _ if thread::current().id() == self.thread_id => job(),
            Some(jobs) => _ = jobs.send(Box::new(job)),
            None => unreachable!("only dropping a host ends its queue"),
        }
        Pending(result)
    }

    /// Starts a closure with the thread's context.
    pub(crate) fn start_with<R: Send + 'static>(&self, job: impl FnOnce(&Context) -> R + Send + 'static) -> Pending<R> {
        self.start(move || {
            let context = CONTEXT.with_borrow(Option::clone).expect("set before the first job");
            job(&context)
        })
    }

    pub(crate) fn with<R: Send + 'static>(&self, job: impl FnOnce(&Context) -> R + Send + 'static) -> R {
        self.start_with(job).wait()
    }

    pub(crate) fn namespace_ref(&self) -> &Namespace {
        &self.namespace
    }

    fn of_interface<R: Send + 'static>(
        &self,
        interface: &str,
        operation: &str,
        job: impl FnOnce(&Context, &str) -> io::Result<R> + Send + 'static,
    ) -> Result<R, TopologyError> {
        let name = interface.to_owned();
        self.with(move |context| job(context, &name)).map_err(|source| self.error(Some(interface), operation, source))
    }

    pub(crate) fn error(
        &self,
        interface: Option<&str>,
        operation: impl Into<String>,
        source: io::Error,
    ) -> TopologyError {
        kernel(&self.name, interface, operation, source)
    }

    /// Ends the thread, then the name of the namespace.
    pub(crate) fn close(mut self) -> Result<(), TopologyError> {
        self.end_thread();
        self.namespace.remove().map_err(|source| kernel(&self.name, None, "remove its network namespace", source))
    }

    fn end_thread(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take().filter(|_| thread::current().id() != self.thread_id) {
            // It catches what its jobs throw, so there is nothing to hear of it.
            _ = thread.join();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The namespace's name goes after this, with its value.
        self.end_thread();
    }
}
