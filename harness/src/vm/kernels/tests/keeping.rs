//! What is fetched, kept, refreshed and removed.

use std::fs;

use super::super::cache::{Cache, State};
use super::super::entry::{Entry, Origin};
use super::super::{Image, Kernel, KernelList, Source, Step};
use super::repository::{Contents, Repository, kernel, names};
use crate::kernel::probe::Lacks;

/// The kernel, and the steps that getting it took, by a word for each.
fn steps(cache: &Cache, kernel: &Kernel, mirror: Option<&str>) -> (Image, Vec<&'static str>) {
    let mut steps = Vec::new();
    let image = cache.ensure(kernel, mirror, &mut |step| steps.push(word(&step))).unwrap();
    steps.dedup();
    (image, steps)
}

fn word(step: &Step<'_>) -> &'static str {
    match step {
        Step::Cached { .. } => "cached",
        Step::Damaged { .. } => "damaged",
        Step::Waiting => "waiting",
        Step::Lists { .. } => "lists",
        Step::Resolved { .. } => "resolved",
        Step::Download { .. } => "download",
        Step::Unpack => "unpack",
    }
}

/// Two versions of a kernel in one package each, and one of another series.
fn whole() -> Repository {
    let repository = Repository::new();
    for (release, version) in
        [("5.10.0-9-amd64", "5.10.99-1"), ("5.10.0-10-amd64", "5.10.103-1"), ("5.4.0-1-amd64", "5.4.9-1")]
    {
        repository.add(&format!("linux-image-{release}"), version, &Contents::whole(release));
    }
    repository.publish();
    repository
}

#[test]
fn the_newest_match_is_fetched_once_and_then_needs_no_mirror() {
    let repository = whole();
    let (cache, wanted) = (repository.cache(), kernel("linux-image-5.10.*-amd64"));
    assert_eq!(cache.list(&KernelList { kernels: vec![wanted.clone()] })[0].state, State::Missing);
    let (image, took) = steps(&cache, &wanted, Some(&repository.url()));
    assert_eq!(took, ["lists", "resolved", "download", "unpack"]);
    assert_eq!(
        (image.release.as_str(), image.version.as_str()),
        ("5.10.0-10-amd64", "linux-image-5.10.0-10-amd64 5.10.103-1")
    );
    let modules = image.modules.clone().unwrap();
    assert!(modules.ends_with("lib/modules/5.10.0-10-amd64"));
    assert_eq!(fs::read_to_string(modules.join("modules.dep")).unwrap(), "kernel/veth.ko:\n");
    let entry = image.vmlinuz.parent().unwrap().parent().unwrap();
    assert_eq!(names(entry), ["boot", "entry.json", "lib"], "documentation is left out");
    let record = Entry::read(entry).unwrap();
    assert_eq!(record.files.len(), 1);
    assert_eq!(record.vmlinuz_sha256, image.sha256);
    assert_eq!(names(&cache.root().join("work")), [""; 0]);

    // Neither a mirror nor lists are left to ask.
    fs::remove_dir_all(repository.path("debian")).unwrap();
    assert_eq!(steps(&cache, &wanted, None), (image, vec!["cached"]));
}

#[test]
fn a_split_kernel_is_put_together_from_what_it_needs_in_its_own_version() {
    let (repository, release) = (Repository::new(), "7.3.4+trial-amd64");
    let depends = format!(
        "initramfs-tools | other, linux-binary-{release} (= 7.3.4-1), linux-modules-{release} (= 7.3.4-1), absent (= 2)"
    );
    let image = Contents { depends: &depends, ..Contents::default() };
    repository.add(&format!("linux-image-{release}"), "7.3.4-1", &image.with("usr/share/doc/x", b"x".to_vec()));
    let binary = Contents::default()
        .with(&format!("usr/lib/modules/{release}/vmlinuz"), super::super::bzimage::image_of(release));
    repository.add(&format!("linux-binary-{release}"), "7.3.4-1", &binary);
    let module = format!("usr/lib/modules/{release}/kernel/veth.ko");
    repository.add(&format!("linux-modules-{release}"), "7.3.4-1", &Contents::default().with(&module, Vec::new()));
    // The same part of another version is not taken.
    repository.add(&format!("linux-modules-{release}"), "7.3.5-1", &Contents::default().with("wrong", Vec::new()));
    repository.publish();
    let (image, _) = steps(&repository.cache(), &kernel("linux-image-7.*-amd64"), Some(&repository.url()));
    assert_eq!(image.release, release);
    assert!(image.vmlinuz.ends_with(format!("boot/vmlinuz-{release}")));
    assert!(image.modules.unwrap().join("modules.dep").is_file());
    let record = Entry::read(&repository.cache().entries()[0].folder).unwrap();
    assert_eq!(record.files.len(), 3, "{record:?}");
}

#[test]
fn a_pinned_version_is_taken_and_not_the_newest() {
    let repository = whole();
    let (image, _) = steps(&repository.cache(), &kernel("linux-image-5.10.*-amd64=5.10.99-1"), Some(&repository.url()));
    assert_eq!(image.release, "5.10.0-9-amd64");
}

#[test]
fn a_newer_kernel_is_fetched_on_request_and_the_older_one_pruned() {
    let repository = whole();
    let (cache, wanted, url) = (repository.cache(), kernel("linux-image-5.10.*-amd64"), repository.url());
    steps(&cache, &wanted, Some(&url));
    steps(&cache, &kernel("linux-image-5.4.*-amd64"), Some(&url));
    repository.add("linux-image-5.10.0-11-amd64", "5.10.110-1", &Contents::whole("5.10.0-11-amd64"));
    repository.publish();
    assert_eq!(steps(&cache, &wanted, Some(&url)).1, ["cached"], "nobody has asked for a newer one");
    assert_eq!(cache.refresh(&wanted, Some(&url), &mut |_| {}).unwrap().release, "5.10.0-11-amd64");

    fs::create_dir_all(cache.work("killed")).unwrap();
    fs::create_dir_all(cache.entries_folder().join("half")).unwrap();
    let list = KernelList { kernels: vec![wanted.clone()] };
    let mut why: Vec<&str> = cache.prune(&list, false).unwrap().iter().map(|pruned| pruned.why).collect();
    why.sort_unstable();
    let expected = [
        "a run ended without removing it",
        "it has no record",
        "no kernel of the list means it",
        "there is a newer one",
    ];
    assert_eq!(why, expected);
    assert_eq!(steps(&cache, &wanted, None).0.release, "5.10.0-11-amd64");
    assert_eq!(cache.prune(&list, false).unwrap(), []);
    cache.prune(&list, true).unwrap();
    for folder in ["entries", "work", "apt"] {
        assert_eq!(names(&cache.root().join(folder)), [""; 0]);
    }
}

#[test]
fn what_another_process_works_on_is_not_pruned() {
    let repository = Repository::new();
    let cache = repository.cache();
    fs::create_dir_all(cache.work("busy")).unwrap();
    let held = super::super::lock::Lock::try_take(&cache.lock("busy")).unwrap();
    assert!(held.is_some());
    assert_eq!(cache.prune(&KernelList { kernels: Vec::new() }, true).unwrap(), []);
    assert!(cache.work("busy").is_dir());
}

#[test]
fn a_damaged_kernel_is_said_and_fetched_again() {
    let repository = whole();
    let (cache, wanted, url) = (repository.cache(), kernel("linux-image-5.10.*-amd64"), repository.url());
    let (image, _) = steps(&cache, &wanted, Some(&url));
    fs::write(&image.vmlinuz, "damaged").unwrap();
    let list = KernelList { kernels: vec![wanted.clone()] };
    assert!(matches!(&cache.list(&list)[0].state, State::Unusable { reason } if reason.contains("sha256")));
    let (again, took) = steps(&cache, &wanted, Some(&url));
    assert_eq!(took, ["damaged", "resolved", "download", "unpack"]);
    assert_eq!(again, image);
    fs::remove_file(image.modules.as_ref().unwrap().join("modules.dep")).unwrap();
    assert!(steps(&cache, &wanted, Some(&url)).1.contains(&"damaged"), "modules without an index are damage too");
}

#[test]
fn what_a_killed_run_left_is_not_used() {
    let repository = whole();
    let (cache, wanted) = (repository.cache(), kernel("linux-image-5.10.*-amd64"));
    let origin = Origin::Debian {
        suites: vec!["trial".to_owned()],
        package: "linux-image-5.10.0-10-amd64".to_owned(),
        version: "5.10.103-1".to_owned(),
    };
    let half = cache.entries_folder().join(origin.id());
    fs::create_dir_all(half.join("boot")).unwrap();
    fs::create_dir_all(cache.work("trial").join("entry/boot")).unwrap();
    fs::write(cache.work("trial").join("entry/boot/stray"), "x").unwrap();
    let (image, took) = steps(&cache, &wanted, Some(&repository.url()));
    assert_eq!(took, ["lists", "resolved", "download", "unpack"]);
    assert!(image.vmlinuz.starts_with(&half));
    assert!(!half.join("boot/stray").exists());
}

#[test]
fn two_runs_at_once_fetch_once() {
    let repository = whole();
    let (wanted, url) = (kernel("linux-image-5.10.*-amd64"), repository.url());
    let run = || steps(&repository.cache(), &wanted, Some(&url));
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join().unwrap())
    });
    assert_eq!(a.0, b.0);
    let fetched = [&a.1, &b.1].iter().filter(|took| took.contains(&"download")).count();
    assert_eq!(fetched, 1, "{a:?} {b:?}");
}

#[test]
fn an_upstream_release_is_what_virtme_ng_finished() {
    let repository = whole();
    let tools = repository.path("tools");
    fs::create_dir(&tools).unwrap();
    // What virtme-ng does with `-r`: packages and what is in them, below the home folder.
    let deb = repository.path("debian/pool/linux-image-5.4.0-1-amd64_5.4.9-1_amd64.deb");
    let fake = format!(
        "#!/bin/sh\n[ \"$*\" = \"-r $TAG --dry-run\" ] || exit 9\nd=$HOME/.cache/virtme-ng/$TAG/amd64\nmkdir -p $d\n\
         cp {0} $d/\ndpkg-deb -x {0} $d\n[ ! -e {1} ]\n",
        deb.display(),
        repository.path("fail").display()
    );
    fs::write(tools.join("vng"), fake.replace("$TAG", "v5.4.9")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tools.join("vng"), mode).unwrap();
    let mut cache = repository.cache();
    cache.host.path = Some(format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", tools.display()));
    let wanted = Kernel {
        name: "up".to_owned(),
        source: Source::Upstream { version: "v5.4.9".to_owned() },
        lacks: Lacks::new(),
    };

    fs::write(repository.path("fail"), "").unwrap();
    let error = cache.ensure(&wanted, None, &mut |_| {}).unwrap_err().to_string();
    assert!(error.starts_with("vng could not fetch kernel v5.4.9"), "{error}");
    assert_eq!(names(&cache.entries_folder()), [""; 0]);
    fs::remove_file(repository.path("fail")).unwrap();
    let (image, mut took) = steps(&cache, &wanted, None);
    // A process that another test starts just now may hold the lock's descriptor until it executes its program.
    took.retain(|step| *step != "waiting");
    assert_eq!(took, ["resolved", "unpack"]);
    assert_eq!((image.release.as_str(), image.version.as_str()), ("5.4.0-1-amd64", "upstream v5.4.9"));
    assert_eq!(steps(&cache, &wanted, None), (image, vec!["cached"]));
}
