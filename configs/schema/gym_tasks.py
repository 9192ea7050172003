"""The tasks of reasoning-gym that a run may use.

Of the 106 tasks of reasoning-gym 0.1.25, those for which all of this was measured (tests/rewards/test_gym_tasks.py
measures it again wherever the package is installed): their own answers are worth 1; the problems follow from the seed
alone, in every process; no empty, wrong, hedging or hostile answer is worth 1, raises or takes a second; and no text
is run as code. Left out are also those whose scorer is slow to set up or reads the task's settings, and one whose
problems take seconds to make.
"""

GYM_TASKS: tuple[str, ...] = (
    "aiw",
    "arc_1d",
    "base_conversion",
    "basic_arithmetic",
    "binary_alternation",
    "caesar_cipher",
    "chain_sum",
    "circuit_logic",
    "color_cube_rotation",
    "count_bits",
    "count_primes",
    "course_schedule",
    "decimal_chain_sum",
    "dice",
    "emoji_mystery",
    "family_relationships",
    "gcd",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "mahjong_puzzle",
    "manipulate_matrix",
    "maze",
    "mini_sudoku",
    "needle_haystack",
    "number_filtering",
    "number_sequence",
    "palindrome_generation",
    "path_star",
    "products",
    "rectangle_count",
    "rotate_matrix",
    "rotten_oranges",
    "self_reference",
    "sentence_reordering",
    "shortest_path",
    "simple_equations",
    "simple_geometry",
    "spell_backward",
    "string_manipulation",
    "string_splitting",
    "string_synthesis",
    "sudoku",
    "syllogism",
    "tsumego",
    "word_sequence_reversal",
)
