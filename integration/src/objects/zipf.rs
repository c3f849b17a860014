//! Which object is asked for: few of them often, most of them seldom.

/// Draws objects by Zipf's law: the one of rank r, counted from 1, in proportion to r to the power of minus the exponent.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// Up to each rank, the part of all requests.
    up_to: Vec<f64>,
}

impl Zipf {
    /// So many objects; the exponent is 0 where all are asked for alike.
    ///
    /// # Panics
    ///
    /// For no object.
    #[must_use]
    pub fn new(objects: usize, exponent: f64) -> Zipf {
        assert!(objects > 0, "one object at least");
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=objects)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        up_to.iter_mut().for_each(|part| *part /= sum);
        Zipf { up_to }
    }

    /// The object, from 0 on, the most wanted first, of a number drawn evenly from 0 to 1.
    #[must_use]
    pub fn sample(&self, uniform: f64) -> usize {
        self.up_to
            .partition_point(|part| *part <= uniform)
            .min(self.up_to.len() - 1)
    }

    /// The part of all requests that an object gets.
    #[must_use]
    pub fn part(&self, object: usize) -> f64 {
        let before = object.checked_sub(1).map_or(0.0, |before| self.up_to[before]);
        self.up_to[object] - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_drawn_as_often_as_the_law_says() {
        let zipf = Zipf::new(100, 0.99);
        let draws = 100_000;
        let mut drawn = [0_u32; 100];
        for draw in 0..draws {
            drawn[zipf.sample(f64::from(draw) / f64::from(draws))] += 1;
        }
        for (object, count) in drawn.iter().enumerate() {
            let expected = zipf.part(object) * f64::from(draws);
            assert!(
                (f64::from(*count) - expected).abs() <= 1.0,
                "{object}: {count}, {expected}"
            );
        }
        assert!((zipf.part(0) / zipf.part(9) - 10.0_f64.powf(0.99)).abs() < 1e-9);
    }

    #[test]
    fn without_exponent_all_are_alike() {
        let zipf = Zipf::new(4, 0.0);
        assert_eq!([0.0, 0.3, 0.5, 0.99, 1.0].map(|at| zipf.sample(at)), [0, 1, 2, 3, 3]);
    }
}
