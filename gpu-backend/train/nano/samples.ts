import { eachQuestion } from './each.ts';
import { randomScatter, randomSet, randomTower } from './generate.ts';
import { BalancedClaims } from './grammar.ts';
import { towerShare } from './heldout.ts';
import { paraphrased } from './language.ts';
import { furthestQuestion, placesQuestion } from './movement.ts';
import { firstImageNumber, numberedFrom } from './numbering.ts';
import {
  describeQuestion,
  digitChoices,
  perceptionQuestion,
  type Question,
  tallyQuestion,
  truthText,
} from './perception.ts';
import { Rng } from './random.ts';
import type { RealData } from './real.ts';
import type { Box } from './scene.ts';
import { randomSequence, type Sequence } from './sequence.ts';
import { comparison, coreference, reasoning, temporal } from './skills.ts';
import { canBeTold, chooseTold, introduce, mostShown, tellable } from './told.ts';

/** A piece of a user turn: text, or the index of an image of the dialogue. */
export type UserPart = string | { image: number };

export interface NanoTurn {
  user: UserPart[];
  assistant: string;
  /** Loss weight of the answer's tokens; 0 keeps the turn as context only. */
  weight: number;
}

/** One training sequence: a few images and several questions about them. */
export interface NanoDialogue {
  /** RGB bytes, 100x100x3 each, height-width-channel order, in the order of their first mention. */
  images: Uint8Array[];
  /** Number of each image, as in `(image 3: `, rising; images that are told in words have the numbers between. */
  imageNumbers: number[];
  /** One key a picture: equal keys mean equal pixels. */
  imageKeys: string[];
  turns: NanoTurn[];
}

export type DialogueKind = 'caption' | 'perception' | 'statements' | 'skills' | 'temporal' | 'real' | 'blind';

export interface Phase {
  /** First dialogue index that no longer belongs to this phase; Infinity in the last one. */
  until: number;
  mix: Readonly<Partial<Record<DialogueKind, number>>>;
  /** Question turns a dialogue, both ends included. */
  turns: readonly [number, number];
  /** Numbers of images that statements, and the skills, are asked about; drawn evenly. More than `mostShown` are told in part. */
  statementSets: readonly number[];
  skillSets: readonly number[];
  /** Chance of each question turn to be one that is answered image by image (each.ts) instead of its dialogue's kind. Default 0. */
  eachShare?: number;
  /** Chance that a dialogue also lists what is in one or more images. */
  describeChance: number;
  /** Chance that a dialogue also counts everything over its images (tallyQuestion). Default 0. */
  tallyChance?: number;
  /** Chance of such a question over shown scatters to be about where something is. Default 0. */
  placesShare?: number;
  /** Numbers of images of stories. Default: those of the skills. */
  storySets?: readonly number[];
  /** Share of the dialogues whose images are numbered from another number than 1 (numbering.ts). Default 0. */
  shiftedShare?: number;
  /** Share of the sets of three that are real training pictures where there are any. Default 0.5. */
  realPictureShare?: number;
  /** Chance of a story over at most `mostShown` scatters to be a movement; the other ones are as the skill draws them. Default 0. */
  movingShare?: number;
  /** The same over more scatters, where the words of those that are told say places. Absent: there are no movements over more. */
  toldMovingShare?: number;
  /** Chance of a question of the skills to be one of comparison or reasoning that is answered by a number. Default 0. */
  numbersShare?: number;
  /** Share of towers among the sets of images. Default: about that of NLVR. */
  towerShare?: number;
  /** Share of the statements about three images that are people's sentences with a computed truth (people.ts). Default 0. */
  peopleShare?: number;
  /** Loss weight of such a list. Its many tokens would otherwise drown the one token of a true or false. Default 1. */
  describeWeight?: number;
}

export interface NanoStreamOptions {
  seed: number;
  phases: readonly Phase[];
  /** Absent: generated pictures and sentences only. */
  real?: RealData;
}

/** Share of the statements that are told in other words than the grammar's and the training sentences'. */
const paraphraseShare = 0.2;

/** Share of the dialogues about several images whose images come in turn by turn. */
const turnByTurnShare = 0.2;

/** An endless, seeded stream of dialogues. `dialogue(index)` depends on the options and the index alone, so any run can resume anywhere. */
export class NanoStream {
  readonly #options: NanoStreamOptions;
  readonly #claims: BalancedClaims;

  /** @throws when no phase covers the end of the stream, or a phase asks for real statements that are not there */
  constructor(options: NanoStreamOptions) {
    if (options.phases.at(-1)?.until !== Infinity)
      throw new Error('NanoStream: the last phase must have until = Infinity');
    this.#options = options;
    this.#claims = new BalancedClaims(options.real?.sets.slice(0, 2000));
  }

  phase(index: number): Phase {
    const phase = this.#options.phases.find(({ until }) => index < until);
    if (!phase) throw new RangeError(`NanoStream: no phase for dialogue ${index}`);
    return phase;
  }

  dialogue(index: number): NanoDialogue {
    const rng = new Rng(this.#options.seed, index);
    const phase = this.phase(index);
    const kind = rng.weighted(phase.mix);
    switch (kind) {
      case 'caption':
        return this.#caption(rng, phase);
      case 'perception':
        return this.#perception(rng, phase);
      case 'statements':
        return this.#statements(rng, phase);
      case 'skills':
        return this.#skills(rng, phase);
      case 'temporal':
        return this.#temporal(rng, phase);
      case 'real':
        return this.#real(rng, phase);
      case 'blind':
        return this.#blind(rng, phase);
    }
  }

  /** Question turns of a dialogue: its own kind's, or image by image. */
  #questions(rng: Rng, phase: Phase, count: number, boxes: readonly Box[], own: (i: number) => Question): Question[] {
    return Array.from({ length: count }, (_, i) =>
      rng.chance(phase.eachShare ?? 0) ? eachQuestion(rng, boxes, phase.placesShare) : own(i),
    );
  }

  #set(rng: Rng, phase: Phase, kind: Box['kind'], count: number): readonly Box[] {
    const { real } = this.#options;
    if (count === 3 && real && real.sets.length > 0 && rng.chance(phase.realPictureShare ?? 0.5)) {
      for (let attempt = 0; attempt < 8; attempt++) {
        const set = rng.pick(real.sets);
        if (set.every((box) => box.kind === kind)) return rng.shuffle(set);
      }
    }
    const boxes = randomSet(rng, kind, count);
    return count > mostShown ? boxes.map((box) => tellable(rng, box)) : boxes;
  }

  #kind(rng: Rng, phase: Phase): Box['kind'] {
    return rng.chance(phase.towerShare ?? towerShare) ? 'tower' : 'scatter';
  }

  /** One or two images, what is in them, and two questions: the most answer tokens for the fewest image tokens. */
  #caption(rng: Rng, phase: Phase): NanoDialogue {
    const boxes = Array.from({ length: rng.chance(0.75) ? 1 : 2 }, () =>
      rng.chance(0.2) ? randomTower(rng) : randomScatter(rng),
    );
    const questions = boxes.map((_, image) => describeQuestion(boxes, image));
    for (let more = 0; more < 2; more++)
      questions.splice(rng.int(0, questions.length), 0, perceptionQuestion(rng, boxes));
    return assemble(rng, phase, boxes, questions);
  }

  #perception(rng: Rng, phase: Phase): NanoDialogue {
    const count = rng.int(1, 3);
    // Images of both kinds side by side: naming an image must mean looking at that image.
    const boxes = Array.from({ length: count }, () =>
      rng.chance(0.6 * (phase.towerShare ?? towerShare)) ? randomTower(rng) : randomScatter(rng),
    );
    if (count > 1 && rng.chance(turnByTurnShare))
      return this.#turnByTurn(rng, phase, boxes, (shown, isNew) => {
        const asked = isNew && rng.chance(0.6) ? shown.length - 1 : rng.int(0, shown.length - 1);
        return rng.chance(0.15) ? describeQuestion(shown, asked) : perceptionQuestion(rng, shown, asked);
      });
    const questions = this.#questions(rng, phase, rng.int(...phase.turns), boxes, () => perceptionQuestion(rng, boxes));
    return assemble(rng, phase, boxes, this.#withDescriptions(rng, phase, boxes, questions));
  }

  /**
   * Images come in one by one over the turns; questions are about those shown so far and may reach back to earlier ones.
   * @param ask given the images shown so far, and whether the last of them comes with this question
   */
  #turnByTurn(
    rng: Rng,
    phase: Phase,
    boxes: readonly Box[],
    ask: (shown: readonly Box[], isNew: boolean) => Question,
    hasPlaces = false,
  ): NanoDialogue {
    const firstNumber = firstImageNumber(rng, boxes.length, phase.shiftedShare ?? 0);
    const { parts, ...shown } = introduce(boxes, chooseTold(rng, boxes), firstNumber, hasPlaces);
    const turns = boxes.flatMap((_, image) =>
      Array.from({ length: Math.ceil(rng.int(...phase.turns) / boxes.length) }, (_, i): NanoTurn => {
        const { user, answer } = numberedFrom(firstNumber, ask(boxes.slice(0, image + 1), i === 0));
        return { user: i === 0 ? [parts[image] as UserPart, user] : [user], assistant: answer, weight: 1 };
      }),
    );
    return { ...shown, turns };
  }

  #statements(rng: Rng, phase: Phase): NanoDialogue {
    const boxes = this.#set(rng, phase, this.#kind(rng, phase), rng.pick(phase.statementSets));
    const questions = this.#questions(rng, phase, rng.int(...phase.turns), boxes, () => {
      if (rng.chance(0.12)) return coreference(rng, boxes, this.#claims);
      return this.#judged(rng, boxes, phase.peopleShare ?? 0);
    });
    return assemble(rng, phase, boxes, this.#withDescriptions(rng, phase, boxes, questions));
  }

  /** A statement and its truth: the grammar's, or for sets of three in a share of the cases one that a person wrote. */
  #judged(rng: Rng, boxes: readonly Box[], peopleShare: number): Question {
    const people = boxes.length === 3 && rng.chance(peopleShare) ? this.#options.real?.people : undefined;
    const { text, truth } = people?.statement(rng, boxes, this.#claims) ?? this.#claims.statement(rng, boxes);
    const user = rng.chance(paraphraseShare) ? paraphrased(rng, text) : text;
    return { user, answer: truthText(truth) };
  }

  #skills(rng: Rng, phase: Phase): NanoDialogue {
    const boxes = this.#set(rng, phase, this.#kind(rng, phase), rng.pick(phase.skillSets));
    const ask = (shown: readonly Box[]): Question => {
      if (shown.length > 1 && rng.chance(phase.numbersShare ?? 0)) return this.#numberOver(rng, shown);
      const skill = shown.length === 1 ? coreference : rng.pick([coreference, comparison, comparison, reasoning]);
      return skill(rng, shown, this.#claims);
    };
    if (rng.chance(turnByTurnShare)) return this.#turnByTurn(rng, phase, boxes, ask);
    const questions = this.#questions(rng, phase, rng.int(...phase.turns), boxes, () => ask(boxes));
    return assemble(rng, phase, boxes, this.#withDescriptions(rng, phase, boxes, questions));
  }

  /** Which image has the most, how many have something, how many there are in all: of true or false the other questions have enough. */
  #numberOver(rng: Rng, shown: readonly Box[]): Question {
    const skill = rng.pick([comparison, reasoning, reasoning]);
    let question = skill(rng, shown, this.#claims);
    for (let tries = 0; tries < 12 && question.choices !== digitChoices; tries++)
      question = skill(rng, shown, this.#claims);
    return question;
  }

  #temporal(rng: Rng, phase: Phase): NanoDialogue {
    const sequence = this.#sequence(rng, phase, rng.pick(phase.storySets ?? phase.skillSets), this.#kind(rng, phase));
    const hasPlaces = sequence.story.event === 'moves';
    if (rng.chance(turnByTurnShare)) {
      const ask = (shown: readonly Box[]) =>
        shown.length < sequence.frames.length ? coreference(rng, shown, this.#claims) : this.#asTold(rng, sequence);
      return this.#turnByTurn(rng, phase, sequence.frames, ask, hasPlaces);
    }
    const length = Math.max(3, rng.int(...phase.turns) - 3);
    const questions = this.#questions(rng, phase, length, sequence.frames, (i) =>
      i < 4 ? this.#asTold(rng, sequence) : rng.pick([coreference, comparison])(rng, sequence.frames, this.#claims),
    );
    const turns = this.#withDescriptions(rng, phase, sequence.frames, questions);
    return assemble(rng, phase, sequence.frames, turns, hasPlaces);
  }

  /** Where words tell no places (`toldMovingShare`), an object that moves is shown in every frame. */
  #sequence(rng: Rng, phase: Phase, count: number, kind: Box['kind']): Sequence {
    const isShown = count <= mostShown;
    const share = isShown ? phase.movingShare : phase.toldMovingShare;
    const mustMove = kind === 'scatter' && rng.chance(share ?? 0);
    for (;;) {
      const sequence = randomSequence(rng, count, kind);
      const moves = sequence.story.event === 'moves';
      if (isShown) {
        if (moves || !mustMove) return sequence;
      } else if (moves === mustMove && sequence.frames.every(canBeTold)) return sequence;
    }
  }

  /** A question about the story; of a movement also about the places that it follows from. */
  #asTold(rng: Rng, sequence: Sequence): Question {
    const { story, frames } = sequence;
    if (story.event !== 'moves' || rng.chance(0.6)) return temporal(rng, sequence);
    const about = rng.chance(0.4) ? placesQuestion : furthestQuestion;
    return about(rng, frames, story.object) ?? temporal(rng, sequence);
  }

  #real(rng: Rng, phase: Phase): NanoDialogue {
    const { real } = this.#options;
    if (!real || real.statements.length === 0) return this.#statements(rng, phase);
    const { statement, label, boxes: set, weight } = rng.pick(real.statements);
    const boxes = rng.shuffle(set);
    const turns: Turn[] = [{ user: statement, answer: truthText(label), weight }];
    const more = this.#questions(rng, phase, rng.int(...phase.turns) - 1, boxes, () =>
      this.#judged(rng, boxes, phase.peopleShare ?? 0),
    );
    return assemble(rng, phase, boxes, [...turns, ...more]);
  }

  /**
   * People's statements without their pictures. Nothing tells whether they hold, so the answers are drawn at the rate of the
   * training labels: a blind model shall fall back to the commoner answer, and not to what a sentence reminds it of.
   */
  #blind(rng: Rng, phase: Phase): NanoDialogue {
    const { real } = this.#options;
    if (!real || real.statements.length === 0) return this.#statements(rng, phase);
    const turns = Array.from({ length: rng.int(...phase.turns) }, (): NanoTurn => {
      const answer = truthText(rng.pick(real.statements).label);
      return { user: [rng.pick(real.statements).statement], assistant: answer, weight: 1 };
    });
    return { images: [], imageNumbers: [], imageKeys: [], turns };
  }

  /**
   * Puts a tally, or descriptions of images, at a random place: before the questions, which they then help to answer in
   * words, or later as a task by itself. Towers are told in a few words, so every one is described.
   */
  #withDescriptions(rng: Rng, phase: Phase, boxes: readonly Box[], questions: readonly Turn[]): readonly Turn[] {
    if (rng.chance(phase.tallyChance ?? 0)) {
      const at = rng.chance(0.4) ? 0 : rng.int(0, questions.length);
      return questions.toSpliced(at, 0, tallyQuestion(boxes));
    }
    const towers = boxes.every((box) => box.kind === 'tower');
    if (!rng.chance(phase.describeChance)) return questions;
    const all = boxes.map((_, i) => i);
    const chosen = towers || rng.chance(0.3) ? all : rng.sample(all, rng.int(1, Math.min(3, all.length)));
    const weight = phase.describeWeight ?? 1;
    const descriptions = chosen
      .sort((a, b) => a - b)
      .map((image): Turn => ({ ...describeQuestion(boxes, image), weight }));
    const at = rng.chance(0.45) ? 0 : rng.int(0, questions.length);
    return questions.toSpliced(at, 0, ...descriptions);
  }
}

type Turn = Question & { weight?: number };

/** Images first, then the questions. @param hasPlaces of the images that are told */
function assemble(
  rng: Rng,
  phase: Phase,
  boxes: readonly Box[],
  questions: readonly Turn[],
  hasPlaces = false,
): NanoDialogue {
  const separator = rng.pick(['', '', '', '\n', ' ']);
  const firstNumber = firstImageNumber(rng, boxes.length, phase.shiftedShare ?? 0);
  const { parts, ...shown } = introduce(boxes, chooseTold(rng, boxes), firstNumber, hasPlaces);
  const turns = questions
    .map((question) => numberedFrom(firstNumber, question))
    .map(
      ({ user, answer, weight = 1 }, i): NanoTurn => ({
        user: i === 0 ? [...parts, separator + user] : [user],
        assistant: answer,
        weight,
      }),
    );
  return { ...shown, turns };
}
