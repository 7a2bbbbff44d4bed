"""The study of slow thinking: a language policy that corrects the frozen model's forecasts.

What belongs here: data, prompts, the policy and its training (supervised, then GRIP), slow-thinking
inference, evaluation and report. What does not: the frozen model, the fleets and their scores.
"""
