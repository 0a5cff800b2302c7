//! How the work of `protect` and `lock` grows with RAM, domains and CPUs, up
//! to 1 TiB, 256 domains and 512 CPUs: the crate's own code on a machine that
//! counts ([`machine`]).
//!
//! A process locks once, so each machine is one of its own: this program
//! again, with [`SHAPE`] in its environment, which prints a line of counts.

mod machine;

use std::process::Command;

use machine::{CHUNK, Large, Shape, Work};
use xen_vmf::addr::{Gfn, Mfn};
use xen_vmf::fuse;
use xen_vmf::heap;
use xen_vmf::machine::Machine;
use xen_vmf::policy::Seal;
use xen_vmf::snapshot;

/// Tells a process its machine: GiB, domains, CPUs, `directmap` and
/// `scattered` as 0 or 1.
const SHAPE: &str = "VMF_SCALE";
/// What a process prints in front of its counts.
const MARK: &str = "scale: ";
/// The machine of a process that was told none.
const SMALL: Shape = Shape {
    gib: 4,
    domains: 5,
    cpus: 4,
    directmap: true,
    scattered: true,
};

/// What one machine did.
#[derive(Clone, Debug)]
struct Counts {
    shape: Shape,
    /// By name: of the `protect` with most to look at, of all of them, of the
    /// lock.
    values: Vec<(String, u64)>,
}

/// The numbers of a machine, in the order of [`SHAPE`].
fn named_shape(shape: &Shape) -> [(&'static str, u64); 5] {
    [
        ("gib", shape.gib),
        ("domains", shape.domains),
        ("cpus", shape.cpus),
        ("directmap", shape.directmap.into()),
        ("scattered", shape.scattered.into()),
    ]
}

impl Counts {
    fn line(&self) -> String {
        let shape = named_shape(&self.shape).map(|(name, value)| format!("{name}={value}"));
        let values = self.values.iter();
        let words = values.map(|(name, value)| format!("{name}={value}"));
        let words: Vec<String> = shape.into_iter().chain(words).collect();
        format!("{MARK}{}", words.join(" "))
    }

    fn get(&self, name: &str) -> u64 {
        let found = self.values.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no {name}")).1
    }
}

fn difference(now: Work, before: Work) -> Work {
    Work {
        tables: now.tables - before.tables,
        written: now.written - before.written,
        listed: now.listed - before.listed,
        passed: now.passed - before.passed,
        tried: now.tried - before.tried,
        taken: now.taken - before.taken,
        lists: now.lists,
    }
}

fn named(what: &str, work: Work) -> Vec<(String, u64)> {
    let values = [
        ("tables", work.tables),
        ("written", work.written),
        ("listed", work.listed),
        ("passed", work.passed),
        ("tried", work.tried),
        ("taken", work.taken),
        ("lists", work.lists),
    ];
    values
        .map(|(name, value)| (format!("{what}.{name}"), value))
        .to_vec()
}

/// Pages of domains that are to be protected and Xen has mapped.
fn reached(large: &Large) -> u64 {
    let mut pages = 0;
    large.leaves(&mut |leaf| {
        let mut at = leaf.start.get();
        while at < leaf.end() {
            let end = (at - at % CHUNK + CHUNK).min(leaf.end());
            if large.shape.owner(at).is_some_and(Shape::inside) {
                pages += end - at;
            }
            at = end;
        }
    });
    pages
}

/// Protects and locks one machine, and sees that it is locked.
fn blow(shape: Shape) -> Counts {
    let large = Large::new(shape);
    let inside = (0..shape.domains).filter(|id| Shape::inside(*id));
    let pages = inside.clone().count() as u64 * shape.share() * CHUNK;
    assert_eq!(reached(&large), if shape.directmap { pages } else { 0 });
    assert!(large.readable(large.directmap_address(large.layout().xenheap.start)));

    let mut most = Work::default();
    let start = large.work();
    for id in inside {
        let before = large.work();
        fuse::protect(&large, id as u16).expect("protected");
        let work = difference(large.work(), before);
        if work.tables >= most.tables {
            most = work;
        }
    }
    let all = difference(large.work(), start);
    assert_eq!(reached(&large), 0, "protected pages are mapped");
    assert_eq!(large.kept(), 0, "a list is leaked");

    let before = large.work();
    let mut parts = Vec::new();
    let frozen = fuse::lock(&large, Seal::Full, &mut |domain, part| {
        parts.push((u64::from(domain.id), part));
    })
    .expect("locked");
    let lock = difference(large.work(), before);
    assert_eq!(reached(&large), 0, "protected pages are mapped");
    large.leaves(&mut |leaf| {
        assert_eq!(leaf.overlap(&large.tables()), 0, "a table is mapped");
    });
    for (id, part) in parts {
        let extents = &frozen.snapshot[part.first..part.first + part.len];
        for index in 0..shape.share() {
            let answer = snapshot::lookup(extents, Gfn::new(Shape::gfn(index) + 7));
            let wanted = (!Shape::inside(id)).then(|| Mfn::new(shape.chunk(id, index) + 7));
            assert_eq!(answer.mfn, wanted, "domain {id}, chunk {index}");
        }
    }

    let mut values = named("protect", most);
    values.extend(named("protects", all));
    values.extend(named("lock", lock));
    values.push(("snapshot".to_owned(), frozen.snapshot.len() as u64));
    values.push(("kept".to_owned(), large.kept() as u64));
    Counts { shape, values }
}

/// The machine that this process was told, or a small one.
#[test]
fn one() {
    let shape = std::env::var(SHAPE).map_or(SMALL, |text| {
        let numbers: Vec<u64> = text.split(',').map(|n| n.parse().expect(SHAPE)).collect();
        let [gib, domains, cpus, directmap, scattered] = numbers[..] else {
            panic!("{SHAPE}={text}");
        };
        Shape {
            gib,
            domains,
            cpus,
            directmap: directmap != 0,
            scattered: scattered != 0,
        }
    });
    println!("\n{}", blow(shape).line());
}

/// The same in a process of its own.
fn elsewhere(shape: Shape) -> Counts {
    let numbers = named_shape(&shape).map(|(_, number)| number.to_string());
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--exact", "one", "--nocapture"])
        .env(SHAPE, numbers.join(","))
        .output()
        .expect("this program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{shape:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = said.lines().find_map(|line| line.strip_prefix(MARK));
    let words = line.expect("counts").split_whitespace();
    let values = words.map(|word| {
        let (name, value) = word.split_once('=').expect("a count");
        (name.to_owned(), value.parse().expect("a number"))
    });
    Counts {
        shape,
        values: values.skip(named_shape(&shape).len()).collect(),
    }
}

/// All of them, two at a time.
fn all(shapes: &[Shape]) -> Vec<Counts> {
    let (even, odd): (Vec<_>, Vec<_>) = shapes.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let run = |half: Vec<(usize, &Shape)>| -> Vec<(usize, Counts)> {
        half.into_iter().map(|(i, s)| (i, elsewhere(*s))).collect()
    };
    let mut seen = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(odd));
        let mut seen = run(even);
        seen.extend(other.join().expect("the other half"));
        seen
    });
    seen.sort_by_key(|(i, _)| *i);
    let seen = seen.into_iter().map(|(_, counts)| counts);
    seen.inspect(|counts| println!("{}", counts.line()))
        .collect()
}

/// The machine of which the others differ in one number.
const MIDDLE: Shape = Shape {
    gib: 32,
    domains: 16,
    cpus: 8,
    directmap: false,
    scattered: true,
};

/// Machines that differ in one number, in ascending order.
fn rows(directmap: bool) -> [(&'static str, Vec<Shape>); 3] {
    let middle = Shape {
        directmap,
        ..MIDDLE
    };
    let ram = [32, 64, 128].map(|gib| Shape { gib, ..middle });
    let domains = [16, 64, 256].map(|domains| Shape { domains, ..middle });
    let cpus = [8, 64, 512].map(|cpus| Shape { cpus, ..middle });
    [
        ("gib", ram.into()),
        ("domains", domains.into()),
        ("cpus", cpus.into()),
    ]
}

/// Xen's list of domains is gone through from its start for each of them.
const SQUARE: &str = "passed";
/// What a count may be beside what it is in proportion: some things are done
/// once, such as to split what was whole.
const MARGIN: f64 = 1.05;

/// What grows by more than `what` from one machine to another.
fn faster(what: &str, one: &Counts, other: &Counts) -> Vec<String> {
    let number = |counts: &Counts| {
        let shape = named_shape(&counts.shape);
        let found = shape.into_iter().find(|(name, _)| *name == what);
        found.expect("a number of the machine").1 as f64
    };
    let times = number(other) / number(one);
    let pairs = one.values.iter().zip(&other.values);
    let grown = pairs.filter_map(|((name, value), (_, later))| {
        let more = *later as f64 / (*value).max(1) as f64;
        let most = if name.ends_with(SQUARE) {
            times * times
        } else {
            times
        };
        (more > most * MARGIN).then(|| format!("{name}: {more:.2} times for {times} times {what}"))
    });
    grown.collect()
}

/// Nothing grows faster than RAM, domains or CPUs do, but for [`SQUARE`].
#[test]
fn work_grows_no_faster_than_the_machine() {
    for directmap in [false, true] {
        for (what, shapes) in rows(directmap) {
            for pair in all(&shapes).windows(2) {
                let grown = faster(what, &pair[0], &pair[1]);
                assert!(grown.is_empty(), "{:?}: {grown:?}", pair[1].shape);
            }
        }
    }
}

/// A terabyte, 256 domains, 512 CPUs: it locks, and the lists fit.
#[test]
fn the_largest_machine_locks() {
    let shapes = [(true, true), (false, true), (true, false)];
    let shapes = shapes.map(|(directmap, scattered)| Shape {
        gib: 1024,
        domains: 256,
        cpus: 512,
        directmap,
        scattered,
    });
    for counts in all(&shapes) {
        let most = counts.get("protect.lists").max(counts.get("lock.lists"));
        assert!(
            most < heap::XENHEAP_CEILING / 16,
            "{:?}: {most} bytes of lists",
            counts.shape
        );
    }
}

#[test]
fn what_grows_faster_is_named() {
    let counts = |gib, tables, passed| Counts {
        shape: Shape { gib, ..MIDDLE },
        values: vec![
            ("lock.tables".to_owned(), tables),
            ("lock.passed".to_owned(), passed),
        ],
    };
    let one = counts(16, 100, 100);
    assert!(faster("gib", &one, &counts(32, 209, 400)).is_empty());
    assert_eq!(
        faster("gib", &one, &counts(32, 212, 100)),
        ["lock.tables: 2.12 times for 2 times gib"]
    );
    assert_eq!(faster("gib", &one, &counts(32, 100, 500)).len(), 1);
}
