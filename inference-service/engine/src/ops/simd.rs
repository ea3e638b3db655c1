//! Which vector instructions the own ops use: one set of kernels, compiled once
//! for each [`Level`], chosen when a model is loaded.
//!
//! Kernels are safe code: a [`Simd`] value proves that the processor has the
//! instructions, and loads and stores check the bounds of their slices. Apart from
//! the line that makes an output, the `unsafe` of the own ops is in this file.

/// Most lanes that any level has.
pub const MAX_LANES: usize = 16;

/// A set of vector instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Whatever the compiler makes of four lanes: SSE2 on x86-64.
    Portable,
    /// 8 lanes, 16 registers.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 4 lanes, 32 registers.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Level {
    /// All that this processor has, the fastest last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other architectures have the portable level only")]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
            levels.extend(has_avx2.then_some(Self::Avx2(Avx2(()))));
            let has_avx512 = has_avx2 && std::arch::is_x86_feature_detected!("avx512f");
            levels.extend(has_avx512.then_some(Self::Avx512(Avx512(()))));
        }
        #[cfg(target_arch = "aarch64")]
        levels.extend(std::arch::is_aarch64_feature_detected!("neon").then_some(Self::Neon(Neon(()))));
        levels
    }

    /// The fastest that this processor has.
    pub fn best() -> Self {
        *Self::available().last().expect("the portable level is always there")
    }

    /// Runs `kernel` with these instructions.
    pub fn run<K: Kernel>(self, kernel: K) {
        match self {
            Self::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.enter(kernel),
        }
    }
}

/// A computation that is compiled for every level. Its `run`, and whatever that
/// calls with lanes, is `#[inline(always)]` and holds no lanes in closures: only
/// what is inlined into the entry of a level is compiled with its instructions,
/// and a closure may not be. Without it every lane goes through memory.
pub trait Kernel {
    /// Computes.
    fn run<S: Simd>(self, simd: S);
}

/// Vector instructions that this processor has.
pub trait Simd: Copy {
    /// A register of [`Simd::LANES`] values.
    type Lanes: Copy;
    /// Values in a register.
    const LANES: usize;
    /// Registers; a tile of accumulators must leave some free.
    const REGISTERS: usize;
    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Lanes;
    /// The first [`Simd::LANES`] values; panics when there are fewer.
    fn load(self, from: &[f32]) -> Self::Lanes;
    /// Writes the first [`Simd::LANES`] values; panics when there is no room.
    fn store(self, lanes: Self::Lanes, to: &mut [f32]);
    /// `a * b + c`.
    fn mul_add(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;
    /// The greater of each pair; where `b` is no number, `b`.
    fn max(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Splits `a` followed by `b` into the values at even and at odd places.
    fn even_odd(self, a: Self::Lanes, b: Self::Lanes) -> (Self::Lanes, Self::Lanes);
    /// Moves every value one lane up, from zero in the first.
    fn shift_up(self, lanes: Self::Lanes) -> Self::Lanes;

    /// The first values of `from`, and zeros after its end.
    #[inline(always)]
    fn load_up_to(self, from: &[f32]) -> Self::Lanes {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        let mut all = [0.0; MAX_LANES];
        for (to, from) in all.iter_mut().zip(from) {
            *to = *from;
        }
        self.load(&all)
    }

    /// Writes as many lanes as `to` has room for.
    #[inline(always)]
    fn store_up_to(self, lanes: Self::Lanes, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            return self.store(lanes, to);
        }
        let mut all = [0.0; MAX_LANES];
        self.store(lanes, &mut all);
        for (to, from) in to.iter_mut().zip(all) {
            *to = from;
        }
    }
}

/// Four lanes that the compiler turns into what every processor of the
/// architecture has.
#[derive(Debug, Clone, Copy)]
struct Portable;

impl Simd for Portable {
    type Lanes = [f32; 4];
    const LANES: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Lanes {
        [value; 4]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::Lanes {
        *from.first_chunk().expect("a kernel loads whole registers")
    }

    #[inline(always)]
    fn store(self, lanes: Self::Lanes, to: &mut [f32]) {
        *to.first_chunk_mut().expect("a kernel stores whole registers") = lanes;
    }

    // Not `f32::mul_add`: without the instruction it is a call for each lane.
    #[inline(always)]
    fn mul_add(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        let mut sum = c;
        for lane in 0..4 {
            sum[lane] += a[lane] * b[lane];
        }
        sum
    }

    #[inline(always)]
    fn max(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        let mut max = a;
        for lane in 0..4 {
            max[lane] = if a[lane] > b[lane] { a[lane] } else { b[lane] };
        }
        max
    }

    #[inline(always)]
    fn even_odd(self, a: Self::Lanes, b: Self::Lanes) -> (Self::Lanes, Self::Lanes) {
        ([a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]])
    }

    #[inline(always)]
    fn shift_up(self, lanes: Self::Lanes) -> Self::Lanes {
        [0.0, lanes[0], lanes[1], lanes[2]]
    }
}

/// What is the same for all sets of intrinsics. `$rest` are those methods of
/// [`Simd`] that take more than one instruction.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! simd {
    ($name:ident: $lanes:literal x $register:ty, $registers:literal registers, $features:literal,
     $splat:ident, $load:ident, $store:ident, $max:ident, { $($rest:tt)* }) => {
        /// Proof that the processor has these instructions: made by
        /// [`Level::available`] only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(());

        impl $name {
            fn enter<K: Kernel>(self, kernel: K) {
                #[target_feature(enable = $features)]
                fn compiled<K: Kernel>(kernel: K, simd: $name) {
                    kernel.run(simd);
                }
                // SAFETY: a value of this type proves that the processor has
                // the features.
                unsafe { compiled(kernel, self) }
            }
        }

        // SAFETY of every block below: `self` proves that the processor has the
        // instruction, which touches no memory but what is said at the block.
        impl Simd for $name {
            type Lanes = $register;
            const LANES: usize = $lanes;
            const REGISTERS: usize = $registers;

            #[inline(always)]
            fn splat(self, value: f32) -> Self::Lanes {
                // SAFETY: see above.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            fn load(self, from: &[f32]) -> Self::Lanes {
                let from: &[f32; $lanes] = from.first_chunk().expect("a kernel loads whole registers");
                // SAFETY: see above; reads this array, at any alignment.
                unsafe { $load(from.as_ptr()) }
            }

            #[inline(always)]
            fn store(self, lanes: Self::Lanes, to: &mut [f32]) {
                let to: &mut [f32; $lanes] = to.first_chunk_mut().expect("a kernel stores whole registers");
                // SAFETY: see above; writes this array, at any alignment.
                unsafe { $store(to.as_mut_ptr(), lanes) }
            }

            #[inline(always)]
            fn max(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
                // SAFETY: see above.
                unsafe { $max(a, b) }
            }

            $($rest)*
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
#[cfg(target_arch = "x86_64")]
simd!(Avx2: 8 x __m256, 16 registers, "avx2,fma",
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_max_ps, {
    #[inline(always)]
    fn mul_add(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn even_odd(self, a: Self::Lanes, b: Self::Lanes) -> (Self::Lanes, Self::Lanes) {
        // The shuffles work within halves: a0 a2 b0 b2 a4 a6 b4 b6. The
        // permutation puts the pairs in order.
        // SAFETY: see above.
        unsafe {
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            let in_order = (_mm256_permute4x64_pd::<0b11_01_10_00>(even), _mm256_permute4x64_pd::<0b11_01_10_00>(odd));
            (_mm256_castpd_ps(in_order.0), _mm256_castpd_ps(in_order.1))
        }
    }

    #[inline(always)]
    fn shift_up(self, lanes: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            let moved = _mm256_permutevar8x32_ps(lanes, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
            _mm256_blend_ps::<1>(moved, _mm256_setzero_ps())
        }
    }

    #[inline(always)]
    fn load_up_to(self, from: &[f32]) -> Self::Lanes {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        // SAFETY: see above; reads the values of this slice and no others.
        unsafe { _mm256_maskload_ps(from.as_ptr(), avx2_mask(from.len())) }
    }

    #[inline(always)]
    fn store_up_to(self, lanes: Self::Lanes, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            return self.store(lanes, to);
        }
        // SAFETY: see above; writes the values of this slice and no others.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), avx2_mask(to.len()), lanes) }
    }
});

/// Selects the first `count` lanes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn avx2_mask(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[cfg(target_arch = "x86_64")]
simd!(Avx512: 16 x __m512, 32 registers, "avx2,fma,avx512f",
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_max_ps, {
    #[inline(always)]
    fn mul_add(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn even_odd(self, a: Self::Lanes, b: Self::Lanes) -> (Self::Lanes, Self::Lanes) {
        // SAFETY: see above.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        }
    }

    #[inline(always)]
    fn shift_up(self, lanes: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { _mm512_maskz_expand_ps(0xFFFE, lanes) }
    }

    #[inline(always)]
    fn load_up_to(self, from: &[f32]) -> Self::Lanes {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        // SAFETY: see above; reads the values of this slice and no others.
        unsafe { _mm512_maskz_loadu_ps((1 << from.len()) - 1, from.as_ptr()) }
    }

    #[inline(always)]
    fn store_up_to(self, lanes: Self::Lanes, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            return self.store(lanes, to);
        }
        // SAFETY: see above; writes the values of this slice and no others.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), (1 << to.len()) - 1, lanes) }
    }
});

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "aarch64")]
simd!(Neon: 4 x float32x4_t, 32 registers, "neon",
    vdupq_n_f32, vld1q_f32, vst1q_f32, vmaxq_f32, {
    #[inline(always)]
    fn mul_add(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn even_odd(self, a: Self::Lanes, b: Self::Lanes) -> (Self::Lanes, Self::Lanes) {
        // SAFETY: see above.
        unsafe { (vuzp1q_f32(a, b), vuzp2q_f32(a, b)) }
    }

    #[inline(always)]
    fn shift_up(self, lanes: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { vextq_f32::<3>(vdupq_n_f32(0.0), lanes) }
    }
});
