//! What this machine can do: memory reads, int8 and f32 multiply-adds.

use std::time::Instant;

/// Bytes per second of reading a large buffer once, with this many threads, prefetching `ahead` bytes.
fn read(buffer: &[u64], threads: usize, ahead: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|s| {
        for part in buffer.chunks(buffer.len().div_ceil(threads)) {
            s.spawn(move || {
                let mut sums = [0u64; 32];
                for line in part.as_chunks::<32>().0 {
                    #[cfg(target_arch = "x86_64")]
                    for i in 0..4 {
                        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                        // SAFETY: a prefetch never faults.
                        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast::<i8>().wrapping_add(ahead + 64 * i)) }
                    }
                    for (s, x) in sums.iter_mut().zip(line) {
                        *s = s.wrapping_add(*x);
                    }
                }
                std::hint::black_box(sums);
            });
        }
    });
    (8 * buffer.len()) as f64 / start.elapsed().as_secs_f64()
}

/// Eight independent chains of one instruction (too few to hide the latency of `vpdpbusd`: its rate is a lower bound), `per` multiply-adds each.
#[cfg(target_arch = "x86_64")]
macro_rules! rate {
    ($name:literal, $instruction:literal, $class:ident, $type:ty, $zero:expr, $per:expr, $features:literal) => {{
        #[target_feature(enable = $features)]
        unsafe fn chains(n: u64) {
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h]: [$type; 8] = [$zero; 8];
            let x: $type = $zero;
            for _ in 0..n {
                // SAFETY: register arithmetic only.
                unsafe {
                    core::arch::asm!(
                        concat!($instruction, " {a}, {x}, {x}"), concat!($instruction, " {b}, {x}, {x}"),
                        concat!($instruction, " {c}, {x}, {x}"), concat!($instruction, " {d}, {x}, {x}"),
                        concat!($instruction, " {e}, {x}, {x}"), concat!($instruction, " {f}, {x}, {x}"),
                        concat!($instruction, " {g}, {x}, {x}"), concat!($instruction, " {h}, {x}, {x}"),
                        a = inout($class) a, b = inout($class) b, c = inout($class) c, d = inout($class) d,
                        e = inout($class) e, f = inout($class) f, g = inout($class) g, h = inout($class) h,
                        x = in($class) x, options(nomem, nostack, preserves_flags),
                    )
                }
            }
        }
        let n = 10_000_000;
        // SAFETY: the caller has asked for the instruction set.
        let seconds = crate::time::best(3, true, || unsafe { chains(n) });
        println!("{:28} {:8.1} GMAC/s per thread", $name, (8 * n * $per) as f64 / seconds / 1e9);
    }};
}

pub fn print() {
    let buffer = vec![1u64; 700 << 17];
    for threads in [1, 2] {
        for ahead in [0, 1024, 4096, 16384] {
            let rate = (0..3).map(|_| read(&buffer, threads, ahead)).fold(0.0, f64::max);
            println!("read 700 MiB, {threads} threads, prefetch {ahead:5} ahead: {:6.1} GB/s", rate / 1e9);
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        // SAFETY (of both zeros): any bits are a vector.
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            rate!("vpmaddubsw, 32 bytes", "vpmaddubsw", ymm_reg, __m256i, unsafe { core::mem::zeroed() }, 32, "avx2");
            rate!("vfmadd231ps, 8 floats", "vfmadd231ps", ymm_reg, __m256, unsafe { core::mem::zeroed() }, 8, "fma");
        }
        if is_x86_feature_detected!("avx512vnni") {
            rate!(
                "vpdpbusd, 64 bytes",
                "vpdpbusd",
                zmm_reg,
                __m512i,
                unsafe { core::mem::zeroed() },
                64,
                "avx512vnni,avx512f"
            );
            rate!(
                "vfmadd231ps, 16 floats",
                "vfmadd231ps",
                zmm_reg,
                __m512,
                unsafe { core::mem::zeroed() },
                16,
                "avx512f"
            );
        }
    }
}
