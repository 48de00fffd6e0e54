//! Texts for a model without rows of its own: plain English, so that a language model foretells most of it.

/// What is replayed where no rows are at hand.
pub const TEXTS: [&str; 12] = [
    "The river rises in the hills north of the town and reaches the sea after about ninety kilometres. In spring, when the \
     snow melts, it floods the meadows on both sides, and for a few weeks the road to the station is closed.",
    "To make a simple bread, mix flour, water, salt and a little yeast, and knead the dough for ten minutes. Let it rest under \
     a cloth until it has doubled in size, shape it into a loaf, and bake it in a hot oven until the crust is brown.",
    "She had lived in the same house for forty years, and she knew every sound that it made. That night she heard one that \
     she did not know, and she sat up in her bed and listened.",
    "A prime number has exactly two divisors, one and itself. There are infinitely many of them: if there were only a few, one \
     could multiply them all, add one, and find that the result is divisible by none of them.",
    "The new library opened on Monday. It has three floors, a reading room that looks out on the park, and more than two \
     hundred thousand books. Visitors said that they liked the light, but that the chairs could be more comfortable.",
    "If the printer does not start, check first whether the cable is plugged in. Then hold the power button for five seconds. \
     If the red light still blinks, open the cover and take out any paper that is stuck inside.",
    "Water boils at a lower temperature on a high mountain, because there is less air above it to press on its surface. That \
     is why rice and potatoes take longer to cook there, although the fire is just as hot.",
    "He wrote to his brother once a month. The letters were short: the weather, the price of wheat, a word about the horses. \
     Only the last one was longer, and it took the family a whole evening to read it aloud.",
    "The committee met again in the afternoon and agreed on most points. It asked for a second report on the costs, which is \
     due at the end of the year, and it put off the question of who will pay for the bridge.",
    "What I liked best about this film was the music. The story is slow in the middle, and the ending can be guessed, but the \
     actors are good, and there is a scene in a railway station that I will not forget.",
    "Birds that spend the winter in the south come back in March and April. They find their way by the sun and the stars, and \
     it seems that some of them can sense the magnetic field of the earth as well.",
    "A list in this language is written in square brackets, with commas between its elements. The first element has the \
     number zero. Asking for one that is not there is an error, and the program stops with a message that says where.",
];
