"""The teacher that a profile names, ready to be asked.

What belongs here: making it from profile, recipe and environment. What does not: the teachers
themselves (`teacher`), and the tables that they fill (`making`). torch is imported only for a
policy that teaches.
"""

from pydantic import ValidationError

from tsfm_pipeline.studies.chat import ChatEndpoint, ChatError, problems
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe
from tsfm_pipeline.studies.time_r1.recipes import RecipeError
from tsfm_pipeline.studies.time_r1.starts import codec_of, starting_policy
from tsfm_pipeline.studies.time_r1.teacher import (
    EndpointTeacher,
    GridTeacher,
    PolicyTeacher,
    Teacher,
    TeacherSettings,
)


def teacher_of(profile: Profile, recipe: Recipe) -> Teacher:
    """Return the teacher of a profile: the drafts; the model behind `TSFM_TEACHER_URL`; or the
    profile's own model as it is before training, which answers with the recipe's seed.

    Raises RecipeError, which names the settings, for an endpoint whose address or model is missing
    or not valid, and CheckpointError for a policy that cannot be loaded.
    """
    if profile.teacher == "grid":
        return GridTeacher()
    if profile.teacher == "policy":
        return _own(profile, recipe)
    try:
        return EndpointTeacher(ChatEndpoint(TeacherSettings()))
    except ValidationError as error:
        wrong = problems(TeacherSettings, error)
    except ChatError as error:
        wrong = str(error)
    raise RecipeError(f"the profile of recipe {recipe.name!r} has the teacher endpoint: {wrong}")


def _own(profile: Profile, recipe: Recipe) -> PolicyTeacher:
    from tsfm_pipeline.studies.time_r1.grammar import word_grammar
    from tsfm_pipeline.studies.time_r1.policy import Sampling

    most = profile.thinking.max_new_tokens
    # A reason in plain text has no grammar; what cannot be read is no candidate.
    grammar = word_grammar(recipe.horizon) if profile.codec == "number" else None
    if grammar is not None:
        most = max(most, int(grammar.remaining.max()))
    sampling = Sampling(recipe.seed, most, profile.thinking.temperature, profile.thinking.top_p)
    codec = codec_of(profile)
    return PolicyTeacher(starting_policy(profile), sampling, codec, profile.prompt, grammar=grammar)
