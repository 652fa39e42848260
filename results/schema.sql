-- Result tables. One column a line: `name TYPE [NOT NULL], -- meaning`; `results/tables.py` reads this file.
-- Every table except `meta` and `runs` starts with the key columns run_id, variant and step; they are filled by the store.
-- Types used: VARCHAR, BIGINT, INTEGER, DOUBLE, FLOAT, BOOLEAN, TIMESTAMP, JSON, BLOB, and lists of them (VARCHAR[]).

-- About this file; one row.
CREATE TABLE meta (
  schema_version INTEGER NOT NULL,  -- raised when a change is more than a new table, column or view
  schema_sha256 VARCHAR NOT NULL,  -- of the tables and views that this file was last brought up to
  generation BIGINT NOT NULL,  -- number of commits so far; the file beside the database holds the same number
  created TIMESTAMP NOT NULL  -- when the file was made, UTC
);

-- One row a run.
CREATE TABLE runs (
  run_id VARCHAR NOT NULL,  -- time and name, unique in this file
  name VARCHAR NOT NULL,  -- `name` of the spec
  description VARCHAR,  -- `description` of the spec
  status VARCHAR NOT NULL,  -- running, waiting (for a person), finished, partial (failed items), failed, interrupted
  created TIMESTAMP NOT NULL,  -- start of the first attempt, UTC
  finished TIMESTAMP,  -- end of the last attempt, UTC
  profile VARCHAR,  -- 'embedded' where the spec runs small packaged models; NULL otherwise
  spec_text VARCHAR NOT NULL,  -- the spec as written; enough to repeat the run
  spec_sha256 VARCHAR NOT NULL,  -- of spec_text
  spec_path VARCHAR,  -- where it was read
  overrides JSON,  -- values given with --set
  seed BIGINT,  -- seed of the run
  device VARCHAR,  -- cpu, cuda, mps
  versions JSON,  -- package versions that can change a result
  git_commit VARCHAR,  -- commit of the spec's repository, with '+' when it had changes
  seconds DOUBLE,  -- wall time of all attempts
  error VARCHAR  -- why it failed
);

-- One row a variant of a sweep (one, named '', without a sweep).
CREATE TABLE variants (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- name of the combination, such as 'k=20,seed=1'
  step VARCHAR NOT NULL,  -- always ''
  params JSON NOT NULL  -- the parameters of this combination
);

-- One row a step of a variant.
CREATE TABLE run_steps (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  uses VARCHAR NOT NULL,  -- what it is, such as c2b.assess
  version VARCHAR NOT NULL,  -- version of the step's code
  artifact_key VARCHAR NOT NULL,  -- content key; folder below artifacts/
  status VARCHAR NOT NULL,  -- done (ran now), cached (was there), failed, interrupted, waiting
  started TIMESTAMP,  -- UTC
  seconds DOUBLE,  -- wall time, 0 when cached
  failed_items BIGINT,  -- items given up inside the step
  rows JSON,  -- rows by results table
  error VARCHAR  -- why it failed
);

-- One row a model of a variant.
CREATE TABLE models (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- always ''
  model VARCHAR NOT NULL,  -- name in the spec
  kind VARCHAR NOT NULL,  -- chat, classifier, image-text encoder, sentence encoder
  provider VARCHAR NOT NULL,  -- provider
  identity JSON NOT NULL,  -- what entered the content keys
  licence VARCHAR,  -- licence of packaged weights
  note VARCHAR  -- size and honesty: what a reader must know of it
);

-- Packaged models and image sets that a run used.
CREATE TABLE assets (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- always ''
  step VARCHAR NOT NULL,  -- always ''
  asset VARCHAR NOT NULL,  -- name in the registry
  wanted VARCHAR NOT NULL,  -- name asked for; differs where a smaller one stood in
  sha256 VARCHAR NOT NULL,  -- of the bytes
  licence VARCHAR,  -- licence
  attribution VARCHAR,  -- who made it
  source VARCHAR  -- package it came from
);

-- Warnings and given-up items.
CREATE TABLE messages (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  level VARCHAR NOT NULL,  -- warning, failed
  item VARCHAR,  -- piece of work
  text VARCHAR NOT NULL  -- what happened
);

-- One row a call of a language model.
CREATE TABLE llm_calls (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  call_id VARCHAR NOT NULL,  -- unique
  purpose VARCHAR NOT NULL,  -- what was asked, such as c2b.biases
  item VARCHAR,  -- about what
  provider VARCHAR NOT NULL,  -- provider
  model VARCHAR NOT NULL,  -- model asked
  cache_key VARCHAR NOT NULL,  -- key in the reply cache
  cached BOOLEAN NOT NULL,  -- answered from the reply cache
  attempts INTEGER NOT NULL,  -- requests sent, repairs and retries included
  outcome VARCHAR NOT NULL,  -- ok, repaired, item (given up), run (no further calls)
  finish_reason VARCHAR,  -- stop, length, ...
  prompt_tokens BIGINT,  -- tokens read
  completion_tokens BIGINT,  -- tokens written
  cost DOUBLE,  -- in the currency of the price file; NULL where no price is known
  ms DOUBLE,  -- wall time, waiting included
  error VARCHAR,  -- last error
  created TIMESTAMP NOT NULL,  -- UTC
  n_images INTEGER,  -- pictures in the question; NULL in runs of older releases
  cached_tokens BIGINT  -- prompt tokens that the server took from its prefix cache; NULL where it does not say
);

-- What went into an image index.
CREATE TABLE corpus_source (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  source_id VARCHAR NOT NULL,  -- name of the source inside the corpus
  kind VARCHAR NOT NULL,  -- folder, webdataset, parquet, packaged
  fingerprint VARCHAR NOT NULL,  -- changes when the source's content changes
  records BIGINT NOT NULL,  -- records seen
  embedded BIGINT NOT NULL,  -- images in the index
  unreadable BIGINT NOT NULL,  -- not decodable
  captioned BIGINT NOT NULL,  -- with a caption of their own
  problems JSON  -- counts by reason, and damaged shards
);

-- Quality of an image-text encoder measured on held-out data.
CREATE TABLE encoder_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  head VARCHAR NOT NULL,  -- ridge, contrastive
  dataset VARCHAR NOT NULL,  -- held-out set
  metric VARCHAR NOT NULL,  -- recall@1, recall@5, accuracy
  prompt VARCHAR,  -- text template, where there is one
  value DOUBLE NOT NULL,  -- the score
  n BIGINT NOT NULL,  -- images scored
  low DOUBLE,  -- 95% Wilson interval, lower
  high DOUBLE,  -- 95% Wilson interval, upper
  chance DOUBLE  -- score of guessing
);

-- Training of a small CLIP, every few steps.
CREATE TABLE clip_train_log (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step of the spec
  train_step BIGINT NOT NULL,  -- training steps done
  epoch DOUBLE NOT NULL,  -- pictures seen over pictures there are
  lr DOUBLE NOT NULL,  -- learning rate of this step
  loss DOUBLE NOT NULL,  -- weighted sum of the losses
  loss_contrastive DOUBLE NOT NULL,  -- multi-positive InfoNCE of pictures and captions
  loss_text DOUBLE NOT NULL,  -- 1 - cos of texts with the sentence encoder
  loss_image DOUBLE NOT NULL,  -- 1 - cos of pictures with the backbone carried into the space of texts
  loss_features DOUBLE NOT NULL,  -- 1 - cos of an extra linear map with the backbone's features
  logit_scale DOUBLE NOT NULL,  -- factor on cosines
  images_per_s DOUBLE NOT NULL,  -- since the row before
  seconds DOUBLE NOT NULL  -- of training, over all attempts
);

-- C2B stage 1: proposed bias attributes.
CREATE TABLE c2b_attribute (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  resample INTEGER NOT NULL,  -- 0 at temperature 0, further draws for stability
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- as proposed
  attribute_norm VARCHAR NOT NULL,  -- casefolded, trimmed
  bias_values VARCHAR[] NOT NULL,  -- mutually exclusive values
  source VARCHAR NOT NULL,  -- llm, include
  status VARCHAR NOT NULL,  -- kept, dropped, failed
  drop_reason VARCHAR  -- why
);

-- C2B stage 1: captions.
CREATE TABLE c2b_caption (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  resample INTEGER NOT NULL,  -- as in c2b_attribute
  caption_id VARCHAR NOT NULL,  -- unique in the step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR,  -- NULL for neutral captions
  value VARCHAR,  -- NULL for neutral captions
  text VARCHAR NOT NULL,  -- the caption
  is_neutral BOOLEAN NOT NULL,  -- no circumstance: baseline and sanity gate
  status VARCHAR NOT NULL,  -- kept, dropped, failed
  drop_reason VARCHAR  -- why
);

-- C2B stage 2: every retrieved candidate and what became of it.
CREATE TABLE c2b_retrieval (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  caption_id VARCHAR NOT NULL,  -- query
  rank INTEGER NOT NULL,  -- 0 = nearest
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  row BIGINT,  -- row of the index
  similarity DOUBLE,  -- cosine of caption and image
  kept BOOLEAN NOT NULL,  -- in the group
  reject_reason VARCHAR,  -- undecodable, small, large, duplicate, near_duplicate, other_value, ambiguous, irrelevant, other_target, surplus
  duplicate_of VARCHAR  -- uri of the kept one
);

-- C2B stage 2: counts per group.
CREATE TABLE c2b_retrieval_count (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR,  -- NULL for neutral captions
  value VARCHAR,  -- NULL for neutral captions
  fetched BIGINT NOT NULL,  -- candidates
  kept BIGINT NOT NULL,  -- in the group
  rejected JSON NOT NULL,  -- counts by reason
  mean_similarity DOUBLE  -- of the kept ones
);

-- C2B stage 3: one row for each unique image and target.
CREATE TABLE c2b_prediction (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  target VARCHAR NOT NULL,  -- class it was retrieved for
  pred VARCHAR NOT NULL,  -- class the classifier said (task names; '(unmapped)' for labels outside the task)
  correct BOOLEAN NOT NULL,  -- pred = target under the prediction rule
  score DOUBLE,  -- probability (softmax) or logit (multilabel) of the target
  rank_of_target INTEGER  -- 1 = first
);

-- C2B stage 3: which image stands in which group.
CREATE TABLE c2b_member (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR,  -- NULL for neutral images
  value VARCHAR,  -- NULL for neutral images
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  caption_id VARCHAR,  -- caption that found it
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  correct BOOLEAN NOT NULL,  -- as in c2b_prediction
  similarity DOUBLE  -- cosine of caption and image
);

-- C2B stage 3: one row a group (target, attribute, value).
CREATE TABLE c2b_group (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  n BIGINT NOT NULL,  -- images
  k BIGINT NOT NULL,  -- correct ones
  acc DOUBLE,  -- k / n
  wilson_low DOUBLE,  -- 95% interval of acc: Wilson; with adaptive sampling (stopped is set) anytime-valid limits
  wilson_high DOUBLE,  -- 95% interval of acc, as wilson_low
  phi DOUBLE,  -- bias score: acc minus the mean acc of the other values; NULL where undefined
  phi_low DOUBLE,  -- 95% interval of phi: MOVER; adaptive: anytime-valid limits
  phi_high DOUBLE,  -- 95% interval of phi, as phi_low
  boot_low DOUBLE,  -- caption bootstrap interval, where a value has several captions
  boot_high DOUBLE,  -- caption bootstrap interval
  fisher_p DOUBLE,  -- Fisher exact, against the pooled other values
  permutation_p DOUBLE,  -- permutation of labels, when switched on
  q_value DOUBLE,  -- adjusted p that the verdict used
  q_bh DOUBLE,  -- Benjamini-Hochberg
  q_by DOUBLE,  -- Benjamini-Yekutieli
  p_holm DOUBLE,  -- Holm
  flag_point BOOLEAN,  -- |phi| > threshold in exact fractions (the paper's rule)
  verdict VARCHAR NOT NULL,  -- favoured, disfavoured, no_evidence, not_testable, insufficient_data, undefined, held_back
  verdict_reason VARCHAR,  -- why there is no verdict
  min_detectable_gap DOUBLE,  -- smallest gap seen with 80% power at this size; adaptive: larger gaps are excluded
  phi_corrected DOUBLE,  -- corrected for wrong values among the retrieved, where precisions are known
  target_precision DOUBLE,  -- estimated share of images that show the target
  value_precision DOUBLE,  -- estimated share of images that show the value
  target_check VARCHAR NOT NULL,  -- how the target was checked: none, contrast, verifier
  separable BOOLEAN,  -- whether the values of the attribute could be told apart; NULL = not tested
  mean_similarity DOUBLE,  -- mean cosine of the group's captions and images
  e_value DOUBLE,  -- adaptive sampling: evidence against "no gap"; intervals and q_value then hold at any time, fisher_p is NULL
  stopped VARCHAR,  -- adaptive sampling: decided, futile, used_up, not_testable; NULL = every image was run
  available BIGINT  -- adaptive sampling: images the group has, of which n were run; NULL = every image was run
);

-- C2B stage 3: one row an attribute of a target.
CREATE TABLE c2b_attribute_test (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  m INTEGER NOT NULL,  -- non-empty values
  n BIGINT NOT NULL,  -- images
  chi2 DOUBLE,  -- homogeneity statistic, no continuity correction
  chi2_p DOUBLE,  -- its p-value; 1 where all are right or all wrong
  q_bh DOUBLE  -- Benjamini-Hochberg over the audit's attributes
);

-- C2B stage 3: the same value across targets (Cochran-Mantel-Haenszel).
CREATE TABLE c2b_pooled_test (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  targets INTEGER NOT NULL,  -- strata
  odds_ratio DOUBLE,  -- pooled odds ratio of being right
  p DOUBLE,  -- without continuity correction
  q_bh DOUBLE  -- Benjamini-Hochberg over the rows of this table
);

-- C2B sanity gate: accuracy on neutral captions.
CREATE TABLE c2b_gate (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR,  -- NULL = all targets
  n BIGINT NOT NULL,  -- images
  k BIGINT NOT NULL,  -- correct ones
  acc DOUBLE,  -- k / n
  wilson_low DOUBLE,  -- 95% interval
  wilson_high DOUBLE,  -- 95% interval
  chance DOUBLE NOT NULL,  -- accuracy of guessing
  passed BOOLEAN  -- lower limit above chance (all targets only)
);

-- C2B: example pictures for the report.
CREATE TABLE c2b_example (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  correct BOOLEAN NOT NULL,  -- classifier was right
  pred VARCHAR NOT NULL,  -- what it said
  similarity DOUBLE,  -- cosine of caption and image
  thumbnail BLOB NOT NULL  -- JPEG, longest side 160 px
);

-- C2B stability over resamples of stage 1.
CREATE TABLE c2b_stability (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  share_proposed DOUBLE,  -- share of resamples that proposed it
  share_same_sign DOUBLE,  -- share with the same sign of phi
  share_same_verdict DOUBLE,  -- share with the same verdict
  jaccard DOUBLE  -- mean Jaccard index of the sets of findings between resamples (same in every row)
);

-- After the audit, where a corpus has hidden labels: how honest was it?
CREATE TABLE c2b_truth (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  value_source VARCHAR,  -- caption (a caption says the value) or measured (on the picture)
  labelled BIGINT NOT NULL,  -- images of the group whose true label is known
  true_target_precision DOUBLE,  -- share of them that show the target
  true_n BIGINT NOT NULL,  -- labelled images that show the target
  true_k BIGINT NOT NULL,  -- of these, classified right
  true_acc DOUBLE,  -- true_k / true_n
  true_low DOUBLE,  -- 95% Wilson interval
  true_high DOUBLE,  -- 95% Wilson interval
  true_phi DOUBLE,  -- bias score on true targets only
  true_phi_low DOUBLE,  -- 95% MOVER interval
  true_phi_high DOUBLE,  -- 95% MOVER interval
  verdict VARCHAR NOT NULL,  -- of the audit
  agreement VARCHAR NOT NULL  -- agrees, opposite, not_confirmed, missed, nothing_to_find, unknown
);

-- C2B: which measurement of the picture stands for a proposed attribute.
CREATE TABLE c2b_binding (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  measure VARCHAR,  -- name in the registry of measurements; NULL = none fits
  bias_values VARCHAR[] NOT NULL,  -- its values, from the lowest measurement to the highest, or in the order of the categories
  source VARCHAR NOT NULL,  -- who chose: user, words (attribute and values are known words of the measurement), llm, none
  reason VARCHAR  -- why none fits
);

-- C2B: measurements of pictures.
CREATE TABLE c2b_measurement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  measure VARCHAR NOT NULL,  -- name in the registry of measurements
  measured DOUBLE,  -- in the unit of the measurement; NULL where it cannot be taken
  category VARCHAR  -- of measurements that give names, such as a dominant hue
);

-- C2B: how measured values of a target's pictures were cut into the values of an attribute.
CREATE TABLE c2b_bin (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  measure VARCHAR NOT NULL,  -- name in the registry of measurements
  unit VARCHAR NOT NULL,  -- unit of the edges
  low DOUBLE,  -- lower edge, included; NULL for categories
  high DOUBLE,  -- upper edge, excluded but for the last
  category VARCHAR,  -- category, where the measurement gives names
  n BIGINT NOT NULL,  -- pictures of the target in this bin
  pool BIGINT NOT NULL,  -- pictures of the target that were measured
  rule VARCHAR NOT NULL  -- how the edges were chosen
);

-- C2B: pictures in groups formed by measurement.
CREATE TABLE c2b_measured_member (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  measure VARCHAR NOT NULL,  -- name in the registry of measurements
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  measured DOUBLE  -- in the unit of the measurement
);

-- C2B: can the values of an attribute be told apart in the retrieved pictures?
CREATE TABLE c2b_separability (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR NOT NULL,  -- bias value
  overlap DOUBLE,  -- share of the value's nearest pictures that are also nearest for the other value that shares most
  expected_overlap DOUBLE,  -- the same for captions that say the same thing, as far as known
  margin DOUBLE,  -- lead of the own caption over the best other value's, in standard deviations of the target's pictures
  measure VARCHAR,  -- measurement that the groups were compared with
  auc DOUBLE,  -- probability that a picture of this value measures on the right side of one of another value
  auc_low DOUBLE,  -- lower end of its 95% interval
  auc_high DOUBLE,  -- upper end
  separable BOOLEAN,  -- whether the value can be told apart; NULL = nothing could be tested
  reason VARCHAR  -- which test failed, in words
);

-- C2B: what an independent verifier saw on each retrieved picture.
CREATE TABLE c2b_target_check (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  target VARCHAR NOT NULL,  -- class it was retrieved for
  shows BOOLEAN,  -- the verifier sees the target; NULL = it cannot say
  score DOUBLE  -- probability of the target, where the verifier gives one
);

-- C2B: which value an independent verifier saw on each retrieved picture.
CREATE TABLE c2b_value_check (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- image inside the source
  target VARCHAR NOT NULL,  -- class it was retrieved for
  attribute VARCHAR NOT NULL,  -- bias attribute
  value VARCHAR  -- value that it chose; NULL = none of these
);

-- C2B: how good the verifier is, by target, on labelled pictures.
CREATE TABLE c2b_verifier (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  verifier VARCHAR NOT NULL,  -- model
  target VARCHAR NOT NULL,  -- audited class
  labels VARCHAR[],  -- labels of the verifier that mean the target; NULL for a vision-language model
  positives BIGINT NOT NULL,  -- calibration pictures that show the target
  negatives BIGINT NOT NULL,  -- calibration pictures that do not
  sensitivity DOUBLE,  -- share of the positives it recognised; NULL = not calibrated
  sensitivity_low DOUBLE,  -- 95% Wilson interval
  sensitivity_high DOUBLE,  -- 95% Wilson interval
  specificity DOUBLE,  -- share of the negatives it refused; NULL = not calibrated
  specificity_low DOUBLE,  -- 95% Wilson interval
  specificity_high DOUBLE,  -- 95% Wilson interval
  usable BOOLEAN NOT NULL,  -- whether its answers are used
  reason VARCHAR,  -- why not
  confusion JSON  -- calibration pictures by class (first the target) and score band: classes, edges, first_yes, counts; NULL without scores or with two classes
);

-- C2B: estimated shares of a group's pictures that show the target and the value.
CREATE TABLE c2b_precision (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  attribute VARCHAR,  -- NULL for neutral pictures
  value VARCHAR,  -- NULL for neutral pictures
  value_source VARCHAR,  -- caption or measured
  images BIGINT NOT NULL,  -- pictures of the group before the check
  said_yes BIGINT NOT NULL,  -- the verifier sees the target
  said_no BIGINT NOT NULL,  -- the verifier does not
  retrieved_precision DOUBLE,  -- estimated share that shows the target among all of them
  retrieved_low DOUBLE,  -- 95% interval
  retrieved_high DOUBLE,  -- 95% interval
  method VARCHAR,  -- mixture (the classes that the verifier mixes up are known) or rogan_gladen (one specificity for all); NULL = not estimated
  target_precision DOUBLE,  -- the same among those that are assessed (without the refused ones, where these are left out)
  target_low DOUBLE,  -- 95% interval
  target_high DOUBLE,  -- 95% interval
  value_images BIGINT NOT NULL,  -- pictures whose value was judged
  value_precision DOUBLE  -- estimated share of them that shows the value
);

-- C2B: two classifiers on the same pictures.
CREATE TABLE c2b_comparison (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  first VARCHAR NOT NULL,  -- name of the first classifier
  second VARCHAR NOT NULL,  -- name of the second
  target VARCHAR,  -- audited class; NULL = all pictures
  attribute VARCHAR,  -- NULL = all pictures of the target
  value VARCHAR,  -- NULL = all pictures of the target
  value_source VARCHAR,  -- caption or measured
  n BIGINT NOT NULL,  -- pictures that both judged
  both_right BIGINT NOT NULL,  -- right with both
  only_first BIGINT NOT NULL,  -- right with the first alone
  only_second BIGINT NOT NULL,  -- right with the second alone
  both_wrong BIGINT NOT NULL,  -- wrong with both
  acc_first DOUBLE,  -- accuracy of the first
  acc_second DOUBLE,  -- accuracy of the second
  difference DOUBLE,  -- acc_second - acc_first
  low DOUBLE,  -- 95% interval for paired proportions
  high DOUBLE,  -- 95% interval
  mcnemar_p DOUBLE,  -- exact test on the pictures where they differ
  q_bh DOUBLE,  -- Benjamini-Hochberg over the groups of the comparison
  phi_first DOUBLE,  -- bias score of the first
  phi_second DOUBLE,  -- bias score of the second
  verdict_first VARCHAR,  -- verdict of the first
  verdict_second VARCHAR,  -- verdict of the second
  verdict VARCHAR NOT NULL  -- better (the second), worse, no_evidence, insufficient_data
);

-- C2B evaluation: true bias scores of a classifier, measured on a labelled data set.
CREATE TABLE c2b_ground_truth (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- celeba, imagenet_x
  classifier VARCHAR NOT NULL,  -- name of the classifier
  target VARCHAR NOT NULL,  -- class
  bias VARCHAR NOT NULL,  -- annotated attribute or factor, taken as present
  caption VARCHAR NOT NULL,  -- sentence for target and bias that is matched with captions of the audit
  n_with BIGINT NOT NULL,  -- pictures of the target with the bias attribute
  k_with BIGINT NOT NULL,  -- of these, classified right
  n_without BIGINT NOT NULL,  -- pictures of the target without it
  k_without BIGINT NOT NULL,  -- of these, classified right
  score DOUBLE NOT NULL,  -- share right with it minus share right without it; positive = the classifier favours it
  low DOUBLE,  -- interval of the score (Newcombe), at the step's confidence
  high DOUBLE  -- upper end
);

-- C2B evaluation: true biases and what was found, matched one to one by their captions.
CREATE TABLE c2b_match (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- audited class
  bias VARCHAR,  -- true bias; NULL = something found that matches none
  truth_text VARCHAR,  -- its caption
  truth_score DOUBLE,  -- its true score; positive = favoured
  truth_outcome VARCHAR,  -- hit, false_hit, miss; NULL = its score is not above the threshold
  attribute VARCHAR,  -- found attribute; NULL = nothing matches, or a keyword of Bias-to-Text
  value VARCHAR,  -- found value or keyword; NULL = nothing matches
  found_text VARCHAR,  -- its caption
  found_score DOUBLE,  -- its score; positive = favoured, also for keywords; NULL = undefined
  found_outcome VARCHAR,  -- hit, false_hit, miss; NULL = not detected
  cosine DOUBLE  -- of the two captions' sentence embeddings; NULL = no match
);

-- C2B evaluation: hit rates. The mean over targets has target NULL.
CREATE TABLE c2b_eval (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  direction VARCHAR NOT NULL,  -- truth_to_detected (of the true biases) or detected_to_truth (of the detected ones)
  target VARCHAR,  -- audited class; NULL = macro mean over the targets that have biases
  targets BIGINT,  -- targets in the macro mean
  biases BIGINT NOT NULL,  -- hits + false_hits + misses: what the percentages are of
  hits BIGINT NOT NULL,  -- matched, both detected, same sign
  false_hits BIGINT NOT NULL,  -- matched, both detected, opposite sign
  misses BIGINT NOT NULL,  -- no match, or the other side is not detected
  hit DOUBLE,  -- percent; NULL where there are no biases
  false_hit DOUBLE,  -- percent
  miss DOUBLE,  -- percent
  hit_low DOUBLE,  -- interval of hit, percent: Wilson for a target, Student over targets for the macro mean
  hit_high DOUBLE  -- upper end
);

-- C2B evaluation: agreement with a vision-language model that labelled real pictures.
CREATE TABLE c2b_agreement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR,  -- audited class; NULL = mean over all attributes
  attribute VARCHAR,  -- bias attribute; NULL = mean over the attributes of the target
  value VARCHAR,  -- bias value; NULL = the attribute as a whole
  n BIGINT,  -- pictures that truly show the target and were answered for (with this value); NULL for means
  k BIGINT,  -- of these, classified right (values only)
  phi DOUBLE,  -- score of the audit (values only); NULL = undefined
  vqa_phi DOUBLE,  -- share right with this answer minus share right with all others pooled (values only); NULL = undefined
  agreement DOUBLE  -- from -1 to 1 (attributes and means); NULL where nothing was answered
);

-- Bias-to-Text baseline: keywords of wrongly classified pictures. A positive score is a bias AGAINST, the opposite sign of phi.
CREATE TABLE c2b_b2t (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- true class of the pictures
  keyword VARCHAR NOT NULL,  -- one to three words
  rank INTEGER NOT NULL,  -- 1 = best by YAKE
  yake DOUBLE NOT NULL,  -- YAKE score; smaller = more telling
  caption VARCHAR NOT NULL,  -- sentence that pictures were compared with
  n_wrong BIGINT NOT NULL,  -- pictures of the class classified wrong
  n_right BIGINT NOT NULL,  -- pictures of the class classified right
  score DOUBLE,  -- mean 100 cosine over the wrong minus the right ones; NULL where a side is empty
  score_low DOUBLE,  -- interval of the score (Welch)
  score_high DOUBLE,  -- upper end
  subgroup_n BIGINT NOT NULL,  -- pictures of the class whose caption holds the keyword as whole words
  subgroup_k BIGINT NOT NULL,  -- of these, classified right
  subgroup_acc DOUBLE,  -- subgroup_k / subgroup_n
  subgroup_low DOUBLE,  -- Wilson interval of subgroup_acc
  subgroup_high DOUBLE,  -- upper end
  class_acc DOUBLE NOT NULL,  -- accuracy over all pictures of the class
  mark VARCHAR NOT NULL  -- empty: score below 0 or undefined; M: positive for another class too; S: for this class
);

-- What was measured on pictures of faces.
CREATE TABLE face_measurement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  uri VARCHAR NOT NULL,  -- picture
  measure VARCHAR NOT NULL,  -- name of a part (its share of the picture), hair_luminance, background_luminance
  value DOUBLE  -- 0 to 1; NULL where the part is not in the picture
);

-- How often a classifier gives an answer, by bins of a measured circumstance. The answer is not checked: there is no true label.
CREATE TABLE c2b_association (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  classifier VARCHAR NOT NULL,  -- name in the spec
  outcome VARCHAR NOT NULL,  -- the answer that is counted
  circumstance VARCHAR NOT NULL,  -- measure
  bin INTEGER NOT NULL,  -- 0 = least of it
  low_edge DOUBLE NOT NULL,  -- least value of the bin
  high_edge DOUBLE NOT NULL,  -- greatest value of the bin
  n BIGINT NOT NULL,  -- pictures
  k BIGINT NOT NULL,  -- pictures with the answer
  rate DOUBLE,  -- k / n
  wilson_low DOUBLE,  -- 95% interval of the rate
  wilson_high DOUBLE,  -- 95% interval of the rate
  difference DOUBLE,  -- rate minus the mean rate of the other bins
  difference_low DOUBLE,  -- 95% MOVER interval
  difference_high DOUBLE,  -- 95% MOVER interval
  fisher_p DOUBLE,  -- Fisher exact, against the other bins pooled
  q_bh DOUBLE,  -- Benjamini-Hochberg over the rows of this table
  gap DOUBLE,  -- rate minus that of the lowest bin; NULL there
  gap_low DOUBLE,  -- 95% Newcombe interval
  gap_high DOUBLE  -- 95% Newcombe interval
);

-- What a classifier's answer does when one circumstance of the same generated people is changed.
CREATE TABLE c2b_counterfactual (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  classifier VARCHAR NOT NULL,  -- name in the spec
  outcome VARCHAR NOT NULL,  -- the answer that is counted
  circumstance VARCHAR NOT NULL,  -- measure that was to change
  kind VARCHAR NOT NULL,  -- edit, or placebo: a random change of equal length
  people BIGINT NOT NULL,  -- people drawn twice, with less and with more
  pairs BIGINT NOT NULL,  -- of them, pairs that pass the manipulation check (placebo: all)
  both_yes BIGINT NOT NULL,  -- the answer with less and with more
  gained BIGINT NOT NULL,  -- the answer with more alone
  lost BIGINT NOT NULL,  -- the answer with less alone
  neither BIGINT NOT NULL,  -- the answer with neither
  effect DOUBLE,  -- (gained - lost) / pairs
  low DOUBLE,  -- 95% Newcombe interval for pairs
  high DOUBLE,  -- 95% Newcombe interval for pairs
  mcnemar_p DOUBLE,  -- exact test on the pairs that differ
  q_bh DOUBLE,  -- Benjamini-Hochberg over the edits of this table
  score_change DOUBLE,  -- mean change of the answer's probability
  score_low DOUBLE,  -- 95% t interval
  score_high DOUBLE,  -- 95% t interval
  wanted_change DOUBLE NOT NULL,  -- change of the measure that was aimed at, in standard deviations of the people
  measured_change DOUBLE,  -- mean change that was measured again, in the same unit
  measured_low DOUBLE,  -- 95% t interval
  measured_high DOUBLE,  -- 95% t interval
  side_effects JSON NOT NULL,  -- mean change of every other measure in standard deviations: {measure: [mean, low, high]}
  fit DOUBLE,  -- R2 of the measure on styles, on people left out
  step_length DOUBLE NOT NULL,  -- length of the edit in whitened style space
  identity_cosine DOUBLE  -- mean cosine of a face descriptor between less and more
);

-- Pairs of one generated person, with less and with more of a circumstance.
CREATE TABLE c2b_pair (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  classifier VARCHAR NOT NULL,  -- name in the spec
  circumstance VARCHAR NOT NULL,  -- measure that was to change
  kind VARCHAR NOT NULL,  -- edit, placebo
  uri VARCHAR NOT NULL,  -- the unedited picture of this person
  measured_less DOUBLE,  -- the measure with less
  measured_more DOUBLE,  -- the measure with more
  kept BOOLEAN NOT NULL,  -- passed the manipulation check
  reason VARCHAR,  -- why not
  outcome_less BOOLEAN NOT NULL,  -- the answer with less
  outcome_more BOOLEAN NOT NULL,  -- the answer with more
  score_less DOUBLE NOT NULL,  -- its probability with less
  score_more DOUBLE NOT NULL,  -- its probability with more
  identity_cosine DOUBLE,  -- cosine of a face descriptor between the two
  thumbnail_less BLOB,  -- JPEG of 128 px, for the people that are shown
  thumbnail_more BLOB  -- JPEG of 128 px, for the people that are shown
);

-- Pictures of classification datasets.
CREATE TABLE dataset_image (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset, such as dtd
  split VARCHAR NOT NULL,  -- train, val or test
  sample_id VARCHAR NOT NULL,  -- unique in the dataset
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- picture inside the source
  target VARCHAR NOT NULL,  -- text of its class, by the dataset's rule
  class_index INTEGER NOT NULL,  -- number of the class
  thumbnail BLOB  -- JPEG, longest side 96 px; of the first pictures only
);

-- Labelled pictures that few-shot methods may use.
CREATE TABLE few_shot_pool (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  slot INTEGER NOT NULL,  -- place in the dataset's pool
  sample_id VARCHAR NOT NULL,  -- picture of the dataset
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- picture inside the source
  target VARCHAR NOT NULL,  -- text of its class
  class_index INTEGER NOT NULL  -- number of the class
);

-- Pool pictures that stand beside a query, in the order shown.
CREATE TABLE pool_neighbour (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  sample_id VARCHAR NOT NULL,  -- query
  rank INTEGER NOT NULL,  -- 0 = first
  pool_sample_id VARCHAR NOT NULL,  -- picture of the pool
  target VARCHAR NOT NULL,  -- text of its class
  class_index INTEGER NOT NULL,  -- number of its class
  similarity DOUBLE  -- cosine; NULL where drawn at random
);

-- Answers of a method that was given the class list.
CREATE TABLE closed_world_answer (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- clip_zero_shot, tip_adapter, tip_adapter_f, tip_adapter_linear, knn, multiple_choice, multiple_choice_random, multiple_choice_similarity
  model VARCHAR NOT NULL,  -- encoder or language model
  shots INTEGER NOT NULL,  -- labelled pictures a class (0 = none)
  dataset VARCHAR NOT NULL,  -- dataset
  sample_id VARCHAR NOT NULL,  -- query
  seed INTEGER NOT NULL,  -- seed of the draw
  target VARCHAR NOT NULL,  -- text of the true class
  reply VARCHAR,  -- as the language model wrote it; NULL for contrastive methods
  prediction VARCHAR,  -- what is scored; NULL where there is no answer
  n_images INTEGER,  -- pictures shown
  prompt_tokens BIGINT,  -- tokens read
  output_tokens BIGINT,  -- tokens written
  finish_reason VARCHAR,  -- stop, length
  failure VARCHAR  -- why there is no answer
);

-- Closed-world answers, judged.
CREATE TABLE closed_world_prediction (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- as in closed_world_answer
  model VARCHAR NOT NULL,  -- encoder or language model
  shots INTEGER NOT NULL,  -- labelled pictures a class
  dataset VARCHAR NOT NULL,  -- dataset
  sample_id VARCHAR NOT NULL,  -- query
  seed INTEGER NOT NULL,  -- seed of the draw
  target VARCHAR NOT NULL,  -- text of the true class
  prediction VARCHAR,  -- what was scored
  correct_inclusion BOOLEAN NOT NULL,  -- the true class stands in the answer (text inclusion; for methods that pick a class, equality); a failure is false
  correct_strict BOOLEAN NOT NULL  -- the true class is the longest class name in the answer, and the only one of that length
);

-- Closed-world accuracies.
CREATE TABLE closed_world_summary (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- as in closed_world_answer
  model VARCHAR NOT NULL,  -- encoder or language model
  shots INTEGER NOT NULL,  -- labelled pictures a class
  level VARCHAR NOT NULL,  -- dataset, group (mean of its datasets), all (mean of the datasets)
  name VARCHAR NOT NULL,  -- which
  metric VARCHAR NOT NULL,  -- accuracy_inclusion, accuracy_strict
  value DOUBLE,  -- mean over seeds
  low DOUBLE,  -- 95 % interval
  high DOUBLE,  -- 95 % interval
  sd DOUBLE,  -- spread between seeds; NULL with one
  n BIGINT NOT NULL,  -- answers
  seeds INTEGER NOT NULL,  -- number of seeds
  failures BIGINT NOT NULL  -- of them without an answer
);

-- Validation accuracy of every pair that the search of Tip-Adapter looked at.
CREATE TABLE tip_grid (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  shots INTEGER NOT NULL,  -- labelled pictures a class
  alpha DOUBLE NOT NULL,  -- weight of the cache
  beta DOUBLE NOT NULL,  -- sharpness
  val_accuracy DOUBLE NOT NULL,  -- share of validation pictures
  chosen BOOLEAN NOT NULL  -- the pair that is used
);

-- Context pictures of an in-context run.
CREATE TABLE circle_context (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  seed INTEGER NOT NULL,  -- seed of the draw
  slot INTEGER NOT NULL,  -- place in the draw
  sample_id VARCHAR NOT NULL,  -- picture of the dataset
  source_id VARCHAR NOT NULL,  -- source inside the corpus
  uri VARCHAR NOT NULL,  -- picture inside the source
  true_label VARCHAR NOT NULL,  -- text of its class; shown to the model only by the method random_labels
  final_label VARCHAR  -- what queries are shown
);

-- History of labels of context pictures.
CREATE TABLE circle_label (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  seed INTEGER NOT NULL,  -- seed of the draw
  round INTEGER NOT NULL,  -- 0 = pseudo-label
  slot INTEGER NOT NULL,  -- place in the draw
  episode VARCHAR,  -- streaming: the query it was made for; NULL otherwise
  reply VARCHAR,  -- as written
  label VARCHAR,  -- cleaned
  joined VARCHAR,  -- current labels after this round, as the next round shows them
  changed BOOLEAN NOT NULL,  -- differs from the round before
  flag VARCHAR  -- kept_previous (empty reply), cut (length limit), failed; NULL otherwise
);

-- Calls of an in-context run, in the order they were planned.
CREATE TABLE circle_call (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  seed INTEGER NOT NULL,  -- seed of the draw
  kind VARCHAR NOT NULL,  -- pseudo, refine, query
  round INTEGER,  -- refinement round
  slot INTEGER,  -- context picture
  sample_id VARCHAR,  -- query
  n_images INTEGER NOT NULL,  -- pictures in the message
  prompt_tokens BIGINT,  -- tokens read
  cached_tokens BIGINT,  -- of them from the server's prefix cache
  output_tokens BIGINT,  -- tokens written
  ms DOUBLE,  -- wall time, waiting included
  prompt_hash VARCHAR NOT NULL,  -- SHA-256 of the messages
  cached BOOLEAN NOT NULL,  -- answered from the reply cache
  failure VARCHAR  -- why it has no reply
);

-- Free-text answers without a class list.
CREATE TABLE owc_prediction (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- zero_shot, random_labels, pseudo, circle, streaming, cased, clip_retrieval, imported
  prompt_key VARCHAR NOT NULL,  -- base, caption, circle, ...
  model VARCHAR NOT NULL,  -- who answered
  dataset VARCHAR NOT NULL,  -- dataset
  sample_id VARCHAR NOT NULL,  -- query
  seed INTEGER NOT NULL,  -- seed of the context draw
  source_id VARCHAR,  -- source inside the corpus
  uri VARCHAR,  -- picture inside the source
  target VARCHAR NOT NULL,  -- text of its class
  reply VARCHAR,  -- as written
  prediction VARCHAR,  -- what is scored; NULL where there is no answer
  judged VARCHAR,  -- what the judge reads: the prediction, or the prediction in a sentence
  n_items INTEGER,  -- parts of a comma list
  first_item VARCHAR,  -- the first of them
  n_images INTEGER,  -- pictures shown
  prompt_tokens BIGINT,  -- tokens read
  cached_tokens BIGINT,  -- of them from the server's prefix cache
  output_tokens BIGINT,  -- tokens written
  finish_reason VARCHAR,  -- stop, length
  ms DOUBLE,  -- wall time, waiting included
  cached BOOLEAN,  -- answered from the reply cache
  log_likelihood DOUBLE,  -- of the reply, nats; NULL where the server does not say
  perplexity DOUBLE,  -- exp(-log_likelihood / output_tokens)
  failure VARCHAR  -- why there is no answer
);

-- What the judge said of each distinct pair.
CREATE TABLE owc_judgement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  reference VARCHAR NOT NULL,  -- label
  answer VARCHAR NOT NULL,  -- what was judged
  judge VARCHAR NOT NULL,  -- model
  reply VARCHAR,  -- as written; NULL where there is none
  verdict INTEGER,  -- 1 = a good answer, 0 = not; NULL = unscored
  attempts INTEGER NOT NULL,  -- questions it took, repeated ones included, whether or not the reply cache knew the answer
  failure VARCHAR  -- why it is unscored
);

-- Agreement of a judge with hand-labelled pairs.
CREATE TABLE owc_judge_agreement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  judge VARCHAR NOT NULL,  -- model
  subset VARCHAR NOT NULL,  -- all, or the kind of pair
  n BIGINT NOT NULL,  -- scored pairs
  unscored BIGINT NOT NULL,  -- pairs without a verdict
  agreement DOUBLE,  -- share that agrees with the hand label
  low DOUBLE,  -- 95 % Wilson interval
  high DOUBLE,  -- 95 % Wilson interval
  kappa DOUBLE,  -- Cohen's kappa
  true_positive BIGINT NOT NULL,  -- good by hand, 1 by the judge
  false_positive BIGINT NOT NULL,  -- bad by hand, 1 by the judge
  true_negative BIGINT NOT NULL,  -- bad by hand, 0 by the judge
  false_negative BIGINT NOT NULL  -- good by hand, 0 by the judge
);

-- Hand-labelled pairs as the judge saw them.
CREATE TABLE owc_judge_pair (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  kind VARCHAR NOT NULL,  -- same, synonym, specific, generic, wrong, list, abstain, ...
  reference VARCHAR NOT NULL,  -- label
  answer VARCHAR NOT NULL,  -- answer
  good BOOLEAN NOT NULL,  -- by hand
  reply VARCHAR,  -- the judge's reply
  verdict INTEGER  -- 1, 0 or NULL
);

-- Six-way category of each distinct pair.
CREATE TABLE owc_category (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  reference VARCHAR NOT NULL,  -- label
  answer VARCHAR NOT NULL,  -- prediction
  judge VARCHAR NOT NULL,  -- model
  category VARCHAR,  -- specific, less specific, generic, more specific, wrong, abstain; NULL = unscored
  reply VARCHAR  -- as written
);

-- Scores of free-text answers.
CREATE TABLE owc_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- as in owc_prediction
  prompt_key VARCHAR NOT NULL,  -- prompt
  model VARCHAR NOT NULL,  -- who answered
  dataset VARCHAR NOT NULL,  -- dataset
  sample_id VARCHAR NOT NULL,  -- query
  seed INTEGER NOT NULL,  -- seed of the context draw
  target VARCHAR NOT NULL,  -- label
  prediction VARCHAR,  -- what was scored; NULL = no answer, which scores 0 for inclusion and nothing for similarity
  text_inclusion BOOLEAN NOT NULL,  -- the label is a substring of the answer
  exact_match BOOLEAN NOT NULL,  -- equal without commas, dollar signs and case
  llama_inclusion INTEGER,  -- judge: 1, 0; NULL = unscored or no judge
  llama_inclusion_first INTEGER,  -- judge on the first item alone
  judge_reply VARCHAR,  -- as written
  semantic_similarity DOUBLE,  -- cosine of answer and label
  semantic_similarity_first DOUBLE,  -- cosine of the first item and the label
  bcs DOUBLE,  -- best concept similarity
  mcs DOUBLE,  -- median concept similarity (the lower middle one)
  ccs_mean DOUBLE,  -- mean concept similarity
  ccs_min DOUBLE,  -- least concept similarity
  n_concepts INTEGER,  -- concepts, the whole answer among them
  textual_iou DOUBLE,  -- intersection over union of words
  n_items INTEGER,  -- parts of a comma list
  error_cell VARCHAR,  -- cell of the error table; NULL without a judge
  six_way VARCHAR  -- category of the six-way taxonomy
);

-- Concepts of answers.
CREATE TABLE owc_concept (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  target VARCHAR NOT NULL,  -- label
  prediction VARCHAR NOT NULL,  -- answer
  idx INTEGER NOT NULL,  -- place in the list
  concept VARCHAR NOT NULL,  -- text
  source VARCHAR NOT NULL,  -- chunk, entity, whole
  similarity DOUBLE NOT NULL  -- cosine with the label
);

-- Means of the open-world scores.
CREATE TABLE owc_summary (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- as in owc_prediction
  prompt_key VARCHAR NOT NULL,  -- prompt
  model VARCHAR NOT NULL,  -- who answered
  level VARCHAR NOT NULL,  -- dataset, group (mean of its datasets), all (mean of the datasets)
  name VARCHAR NOT NULL,  -- which
  metric VARCHAR NOT NULL,  -- text_inclusion, exact_match, llama_inclusion, llama_inclusion_first, semantic_similarity, bcs, mcs, ...
  value DOUBLE,  -- mean, 0 to 1
  low DOUBLE,  -- 95 % bootstrap interval over pictures
  high DOUBLE,  -- 95 % bootstrap interval over pictures
  sd DOUBLE,  -- spread between seeds; NULL with one
  n BIGINT NOT NULL,  -- answers that the mean is over
  unscored BIGINT NOT NULL,  -- answers without this score
  seeds INTEGER NOT NULL,  -- number of seeds
  chunker VARCHAR,  -- what cut the answers into concepts
  judge VARCHAR,  -- judge model
  encoder VARCHAR  -- sentence encoder
);

-- Why answers fail: counts of the table of correctness and closeness.
CREATE TABLE owc_error_cell (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- as in owc_prediction
  prompt_key VARCHAR NOT NULL,  -- prompt
  model VARCHAR NOT NULL,  -- who answered
  dataset VARCHAR NOT NULL,  -- dataset
  taxonomy VARCHAR NOT NULL,  -- quadrant or six_way
  cell VARCHAR NOT NULL,  -- name of the cell
  n BIGINT NOT NULL,  -- answers
  share DOUBLE NOT NULL,  -- of the scored answers
  threshold DOUBLE  -- on bCS
);

-- Games between answers.
CREATE TABLE owc_elo_game (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  game INTEGER NOT NULL,  -- order of play
  sample_id VARCHAR NOT NULL,  -- query
  player_a VARCHAR NOT NULL,  -- first
  player_b VARCHAR NOT NULL,  -- second
  answer_a VARCHAR,  -- what the first said
  answer_b VARCHAR,  -- what the second said
  target VARCHAR NOT NULL,  -- label
  score DOUBLE  -- 1, 0.5 or 0 for the first; NULL = not judged yet
);

-- Elo ratings.
CREATE TABLE owc_elo (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset, or all
  player VARCHAR NOT NULL,  -- method and model
  criterion VARCHAR NOT NULL,  -- semantic_similarity or llama_score
  games BIGINT NOT NULL,  -- games it played
  online DOUBLE NOT NULL,  -- rating after one pass
  final DOUBLE NOT NULL,  -- median over shards
  low DOUBLE,  -- 95 % interval over shards
  high DOUBLE  -- 95 % interval over shards
);

-- Attributes of dataset pictures, one row a picture and attribute.
CREATE TABLE dataset_attribute (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  sample_id VARCHAR NOT NULL,  -- picture of dataset_image
  attribute VARCHAR NOT NULL,  -- such as gender, race, place
  value VARCHAR NOT NULL  -- such as Female
);

-- Texts that debiasing methods used, by kind.
CREATE TABLE prompt_set (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  set_id VARCHAR NOT NULL,  -- SHA-256 over the texts of this kind, in order
  kind VARCHAR NOT NULL,  -- query, diverse, bias, paraphrase, spurious, candidate, augmented, harmful, helpful, scene, target_word, bias_word, content
  attribute VARCHAR,  -- attribute that it is about
  class_name VARCHAR,  -- value of the attribute (bias, spurious, candidate, augmented), or a and b of a pair
  query VARCHAR,  -- query that it belongs to
  idx INTEGER NOT NULL,  -- place in its list
  text VARCHAR NOT NULL,  -- the text
  source VARCHAR NOT NULL,  -- shipped, spec or llm
  llm VARCHAR,  -- model that wrote it
  retries INTEGER NOT NULL,  -- replies that were refused before
  tokens INTEGER  -- of the encoder's tokenizer, start and end included, where it was at hand
);

-- Queries as debiased by each method.
CREATE TABLE debias_text (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  method VARCHAR NOT NULL,  -- label of the method
  query VARCHAR NOT NULL,  -- query text
  row INTEGER NOT NULL,  -- row of its vector
  norm DOUBLE NOT NULL,  -- norm before it was scaled to 1
  cos_original DOUBLE NOT NULL,  -- cosine to the query's own embedding
  rank_used INTEGER  -- rank of the projection, for methods that project
);

-- Neurons of the sparse autoencoder that a modulation moved most.
CREATE TABLE neuron_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- label of the method
  query VARCHAR NOT NULL,  -- query text
  neuron INTEGER NOT NULL,  -- latent, from 0
  h DOUBLE NOT NULL,  -- activation before
  s_concept DOUBLE NOT NULL,  -- content relevance, 0..1
  s_bias DOUBLE,  -- bias sensitivity, 0..1; NULL where the variant has none
  m DOUBLE NOT NULL,  -- multiplier
  h_new DOUBLE NOT NULL  -- activation after
);

-- Retrieval with debiased queries: one row a method, query and half of the pictures.
CREATE TABLE debias_retrieval (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  backbone VARCHAR NOT NULL,  -- encoder of pictures and texts
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  method VARCHAR NOT NULL,  -- label of the method
  seed INTEGER NOT NULL,  -- of the halves
  fold INTEGER NOT NULL,  -- which repeated half, from 0
  query VARCHAR NOT NULL,  -- query text
  k INTEGER NOT NULL,  -- pictures retrieved
  kl DOUBLE NOT NULL,  -- KL divergence of retrieved shares from those of the half, natural logarithm
  max_skew DOUBLE NOT NULL,  -- largest log ratio of a share to that of the half, at least 0
  precision DOUBLE  -- share of the retrieved that show what the query asks for; NULL where no label says so
);

-- Pictures of each value among the retrieved.
CREATE TABLE debias_retrieval_count (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  backbone VARCHAR NOT NULL,  -- encoder of pictures and texts
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  method VARCHAR NOT NULL,  -- label of the method
  seed INTEGER NOT NULL,  -- of the halves
  fold INTEGER NOT NULL,  -- which repeated half, from 0
  query VARCHAR NOT NULL,  -- query text
  value VARCHAR NOT NULL,  -- value of the attribute
  prior INTEGER NOT NULL,  -- pictures of it in the half that is searched
  retrieved INTEGER NOT NULL  -- pictures of it among the retrieved
);

-- Zero-shot classification with debiased class texts, by class and value of the attribute.
CREATE TABLE debias_group (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  backbone VARCHAR NOT NULL,  -- encoder of pictures and texts
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  method VARCHAR NOT NULL,  -- label of the method
  seed INTEGER NOT NULL,  -- of the halves
  fold INTEGER NOT NULL,  -- which repeated half, from 0
  target VARCHAR NOT NULL,  -- true class
  value VARCHAR NOT NULL,  -- value of the attribute
  n INTEGER NOT NULL,  -- pictures of the group in the half
  correct INTEGER NOT NULL  -- those answered correctly
);

-- Means of debiasing metrics with their intervals; each metric has a row for every kind of interval.
CREATE TABLE debias_summary (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  backbone VARCHAR NOT NULL,  -- encoder of pictures and texts
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  task VARCHAR NOT NULL,  -- retrieval or zero_shot
  method VARCHAR NOT NULL,  -- label of the method
  metric VARCHAR NOT NULL,  -- kl, max_skew, precision; accuracy, worst_group, gap
  mean DOUBLE NOT NULL,  -- over halves and queries, or over the pictures of all halves
  ci_low DOUBLE,  -- lower 95 % limit; NULL where one value has none
  ci_high DOUBLE,  -- upper 95 % limit
  ci_kind VARCHAR NOT NULL,  -- published (counts repeated pictures several times), by_image (bootstrap), by_cluster (the same of clusters of pictures, instead of by_image), by_fold (t over halves)
  n BIGINT NOT NULL  -- values behind the interval: answers or scores, pictures, clusters, halves
);

-- Pictures that a method answers otherwise than the baseline; the first ones of each group.
CREATE TABLE debias_change (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  backbone VARCHAR NOT NULL,  -- encoder of pictures and texts
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  baseline VARCHAR NOT NULL,  -- label that it is compared with
  method VARCHAR NOT NULL,  -- label of the method
  sample_id VARCHAR NOT NULL,  -- picture of dataset_image
  target VARCHAR NOT NULL,  -- true class
  value VARCHAR NOT NULL,  -- value of the attribute
  before VARCHAR NOT NULL,  -- the baseline's answer
  after VARCHAR NOT NULL,  -- the method's answer
  change VARCHAR NOT NULL  -- lost (right before, wrong after) or gained
);

-- Evaluations of the same pictures compared, in pairs; intervals by a bootstrap over pictures, or over clusters of them.
CREATE TABLE debias_compare (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  attribute VARCHAR NOT NULL,  -- protected or spurious attribute
  first VARCHAR NOT NULL,  -- evaluation and method that it is compared with
  second VARCHAR NOT NULL,  -- evaluation and method
  metric VARCHAR NOT NULL,  -- accuracy, worst_group, gap
  first_value DOUBLE NOT NULL,  -- of the first
  second_value DOUBLE NOT NULL,  -- of the second
  difference DOUBLE NOT NULL,  -- second - first
  ci_low DOUBLE NOT NULL,  -- lower 95 % limit of the difference
  ci_high DOUBLE NOT NULL,  -- upper 95 % limit of the difference
  n BIGINT NOT NULL,  -- pictures that both answered
  clusters BIGINT  -- clusters of them that were resampled; NULL where pictures were
);

-- Whether an attribute leaks into what is learnt about a task, from dense features and from the latents.
CREATE TABLE disentanglement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  features VARCHAR NOT NULL,  -- clip (raw text embeddings) or sae (latents)
  task VARCHAR NOT NULL,  -- what is predicted, such as profession
  attribute VARCHAR NOT NULL,  -- what should not leak
  acc_main DOUBLE NOT NULL,  -- accuracy of the task
  acc_bias DOUBLE NOT NULL,  -- accuracy of the attribute from the features
  acc_leak DOUBLE NOT NULL,  -- accuracy of the attribute from the task's logits
  chance DOUBLE NOT NULL,  -- accuracy by chance
  d DOUBLE,  -- 1 - (acc_leak - chance) / (acc_bias - chance); NULL where the features do not hold the attribute
  d_std DOUBLE,  -- its standard deviation over folds, by propagation of errors; NULL where it is not defined
  n INTEGER NOT NULL,  -- texts
  folds INTEGER NOT NULL  -- folds
);

-- Content preservation and bias neutralisation of texts that name an attribute's values.
CREATE TABLE cp_bn (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  method VARCHAR NOT NULL,  -- label of the method
  cp DOUBLE NOT NULL,  -- mean cosine to the original neutral text
  bn DOUBLE NOT NULL,  -- mean cosine between the values of one subject
  n INTEGER NOT NULL  -- subjects
);

-- Sparse autoencoders: trained here or read from a file.
CREATE TABLE sae_model (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  sae_id VARCHAR NOT NULL,  -- SHA-256 of its weights
  backbone VARCHAR NOT NULL,  -- encoder whose embeddings it codes
  small BOOLEAN NOT NULL,  -- whether the encoder is this project's small one
  architecture VARCHAR NOT NULL,  -- msae, topk, batch_topk, relu_l1
  d INTEGER NOT NULL,  -- embedding dimension
  latents INTEGER NOT NULL,  -- latents
  levels INTEGER[] NOT NULL,  -- Matryoshka levels
  weighting VARCHAR,  -- reverse or uniform
  layout VARCHAR NOT NULL,  -- sem or msae
  modality VARCHAR,  -- text, image, both
  corpus_hash VARCHAR,  -- SHA-256 over the embeddings it was trained on
  n_train BIGINT,  -- rows trained on
  n_val BIGINT,  -- rows held out
  fvu DOUBLE,  -- fraction of variance unexplained on the held-out rows
  cosine DOUBLE,  -- mean cosine of reconstruction
  l0 DOUBLE,  -- mean active latents
  sparsity DOUBLE,  -- share of zeros
  dead BIGINT,  -- latents never active on the held-out rows
  decoder_coherence DOUBLE,  -- mean squared off-diagonal product of decoder directions
  cknna DOUBLE  -- alignment of latents and embeddings (CKNNA, 10 neighbours)
);

-- Training of a sparse autoencoder, one row an epoch; measured on the held-out rows, all latents as at inference.
CREATE TABLE sae_train_log (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  sae_id VARCHAR NOT NULL,  -- SHA-256 of the weights that the training ended with
  epoch INTEGER NOT NULL,  -- from 1
  lr DOUBLE NOT NULL,  -- learning rate of the epoch
  loss DOUBLE NOT NULL,  -- mean training loss
  level_losses DOUBLE[] NOT NULL,  -- mean reconstruction loss of each Matryoshka level, sparsest first
  fvu DOUBLE NOT NULL,  -- fraction of variance unexplained
  cosine DOUBLE NOT NULL,  -- mean cosine of reconstruction
  l0 DOUBLE NOT NULL,  -- mean active latents
  dead BIGINT NOT NULL,  -- latents never active on the held-out rows
  rare BIGINT,  -- latents active on under 10^-5.5 of the training rows since the last check; NULL between checks
  seconds DOUBLE NOT NULL  -- wall time of the epoch
);

-- Heads of a vision transformer: their value-output matrices.
CREATE TABLE sith_head (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  spectral_norm DOUBLE NOT NULL,  -- largest singular value
  fro_norm DOUBLE NOT NULL,  -- Frobenius norm
  eff_rank DOUBLE NOT NULL,  -- exp of the entropy of s^2 / sum s^2
  ceiling_mean DOUBLE NOT NULL  -- mean fidelity that a perfect code would have
);

-- Singular directions of the heads.
CREATE TABLE sith_direction (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0, largest first
  side VARCHAR NOT NULL,  -- right (what is written) or left (what is read)
  sigma DOUBLE NOT NULL,  -- singular value
  sigma_share DOUBLE NOT NULL,  -- s^2 / sum s^2
  near_degenerate BOOLEAN NOT NULL,  -- a neighbour's s is equal within 1e-4: defined only up to rotation
  ceiling DOUBLE  -- fidelity that a perfect code would have
);

-- Sparse codes of singular directions, one row a direction and setting.
CREATE TABLE sith_code (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0
  side VARCHAR NOT NULL,  -- right or left
  sign INTEGER NOT NULL,  -- 1, or -1 where the negated vector is explained
  method VARCHAR NOT NULL,  -- comp, nnomp, omp, mp, top_k, lasso
  k INTEGER NOT NULL,  -- atoms asked for
  coherence DOUBLE NOT NULL,  -- weight lambda of coherence
  fidelity DOUBLE,  -- cosine to the vector through the pseudo-inverse of the projection; NULL for an empty code
  joint_cos DOUBLE,  -- cosine in the joint space; NULL for an empty code
  resid_norm DOUBLE NOT NULL,  -- norm of what the code leaves
  atom_cosine DOUBLE,  -- mean pairwise cosine of the active atoms, centred; NULL below two
  atom_cosine_raw DOUBLE,  -- the same with un-centred embeddings
  n_active INTEGER NOT NULL  -- atoms with a positive coefficient
);

-- Concepts of the codes.
CREATE TABLE sith_concept (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0
  side VARCHAR NOT NULL,  -- right or left
  sign INTEGER NOT NULL,  -- 1, or -1 where the negated vector is explained
  method VARCHAR NOT NULL,  -- coder
  k INTEGER NOT NULL,  -- atoms asked for
  coherence DOUBLE NOT NULL,  -- weight lambda of coherence
  pick INTEGER NOT NULL,  -- order in which it was picked, from 0
  rank INTEGER,  -- order by coefficient, from 0; NULL where the coefficient is zero
  atom INTEGER NOT NULL,  -- line of the dictionary, from 0
  concept VARCHAR NOT NULL,  -- text of the line
  coef DOUBLE NOT NULL,  -- coefficient
  gap DOUBLE  -- score of the pick minus that of the runner-up
);

-- Pictures that singular directions retrieve.
CREATE TABLE sith_grounding (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0
  side VARCHAR NOT NULL,  -- right or left
  rank INTEGER NOT NULL,  -- place among the pictures, from 0
  dataset VARCHAR NOT NULL,  -- dataset of the picture
  sample_id VARCHAR NOT NULL,  -- picture
  source_id VARCHAR,  -- source of its bytes; NULL where the datasets were not given
  uri VARCHAR,  -- its place in the source
  score DOUBLE NOT NULL,  -- cosine of the direction, with the image mean added back, and the picture
  concept_score DOUBLE  -- mean cosine of the picture and the direction's concepts; NULL without concepts
);

-- Pictures as sums of concepts (SpLiCE).
CREATE TABLE splice_image (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset of the picture
  sample_id VARCHAR NOT NULL,  -- picture
  l0 INTEGER NOT NULL,  -- concepts with a positive coefficient
  cosine DOUBLE  -- cosine of the recomposed and the own embedding; NULL for an empty code
);

-- Concepts of pictures (SpLiCE), largest coefficient first.
CREATE TABLE splice_code (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset of the picture
  sample_id VARCHAR NOT NULL,  -- picture
  rank INTEGER NOT NULL,  -- order by coefficient, from 0
  atom INTEGER NOT NULL,  -- line of the dictionary, from 0
  concept VARCHAR NOT NULL,  -- text of the line
  coef DOUBLE NOT NULL  -- coefficient
);

-- Texts that span what a head writes on pictures (TextSpan).
CREATE TABLE textspan_concept (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  pick INTEGER NOT NULL,  -- order in which it was picked, from 0
  atom INTEGER NOT NULL,  -- line of the dictionary, from 0
  concept VARCHAR NOT NULL,  -- text of the line
  deviation DOUBLE NOT NULL,  -- standard deviation of the head's outputs along what was left of the text
  explained DOUBLE NOT NULL  -- share of the outputs' variance in the span of the texts so far
);

-- What a judge said of concept lists.
CREATE TABLE sith_judgement (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  task VARCHAR NOT NULL,  -- coherence, background, safety, concept_match
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0
  side VARCHAR NOT NULL,  -- right or left
  sign INTEGER NOT NULL,  -- 1, or -1 where the negated vector is explained
  score INTEGER,  -- 1..5; NULL where there is none
  theme VARCHAR,  -- the theme it named
  status VARCHAR NOT NULL,  -- scored, unscored, empty
  attempts INTEGER NOT NULL,  -- requests sent
  judge VARCHAR NOT NULL,  -- model
  prompt_hash VARCHAR NOT NULL,  -- SHA-256 of the prompt's template
  cached BOOLEAN NOT NULL  -- whether the reply came from the cache
);

-- Singular values that an edit changed.
CREATE TABLE sith_edit (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0
  multiplier DOUBLE NOT NULL,  -- new value / old value
  sigma_old DOUBLE NOT NULL,  -- before
  sigma_new DOUBLE NOT NULL,  -- after (negative where the sign was turned)
  reason VARCHAR NOT NULL  -- rule, and what it went by
);

-- Heads of two models compared (our measures), one row a direction of the first.
CREATE TABLE sith_compare (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- first model
  other VARCHAR NOT NULL,  -- second model
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv_a INTEGER NOT NULL,  -- singular vector of the first, from 0
  sv_b INTEGER NOT NULL,  -- the one of the second that is assigned to it (one each, largest sum of cosines)
  cos DOUBLE NOT NULL,  -- cosine of the two right vectors, absolute
  sigma_a DOUBLE NOT NULL,  -- singular value in the first
  gain DOUBLE NOT NULL,  -- u^T W2 v: gain of the first's direction in the second model
  gain_ratio DOUBLE,  -- gain / sigma_a; NULL where sigma_a is 0
  mean_cos DOUBLE NOT NULL,  -- mean cosine of the head's pairs
  weighted_cos DOUBLE,  -- the same weighted by sigma_a; NULL where the first head is 0
  overlap1 DOUBLE NOT NULL,  -- squared cosine of the two leading right vectors
  overlap5 DOUBLE NOT NULL,  -- share of the 5 leading right vectors' span in common
  overlap_r DOUBLE NOT NULL,  -- share of the whole right span in common
  principal DOUBLE NOT NULL,  -- principal cosine of the right spans, the sv_a-th largest
  reweight_energy DOUBLE,  -- share of the second head's energy that re-weighting the first's directions explains
  inspan_energy DOUBLE,  -- share of it inside the first's left and right spans
  rel_delta DOUBLE,  -- Frobenius norm of the difference / norm of the first
  jaccard DOUBLE  -- concepts in common / in all, of the pair; NULL without concepts
);

-- Directions that carry an attribute (our measure).
CREATE TABLE sith_effect (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model
  attribute VARCHAR NOT NULL,  -- attribute
  value VARCHAR NOT NULL,  -- value that the positive side stands for
  against VARCHAR NOT NULL,  -- value or values that it is told from
  evidence VARCHAR NOT NULL,  -- images or texts: what the attribute's direction was taken from, by weights; activations: on pictures
  margin VARCHAR,  -- first text - second text, where the effect is on this margin; NULL: on the attribute's direction
  n_value BIGINT NOT NULL,  -- pictures or texts with the value
  n_against BIGINT NOT NULL,  -- and without
  layer INTEGER NOT NULL,  -- block, from 0
  head INTEGER NOT NULL,  -- head, from 0
  sv INTEGER NOT NULL,  -- singular vector, from 0
  side VARCHAR NOT NULL,  -- right: what is written
  cosine DOUBLE NOT NULL,  -- of what the direction writes and that direction, in the joint space
  sigma DOUBLE NOT NULL,  -- singular value
  effect DOUBLE NOT NULL,  -- signed: sigma (activations: difference of mean coefficients / mean scale) x written along it
  share DOUBLE NOT NULL,  -- effect^2 / sum of effect^2 over all directions looked at
  mean_coefficient DOUBLE,  -- what the direction adds on average over all pictures; NULL by weights
  rank INTEGER NOT NULL  -- order by |effect|, from 0
);

-- Recall of the safe partner when queries or galleries are unsafe (ViSU protocol).
CREATE TABLE sith_recall (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model
  dataset VARCHAR NOT NULL,  -- dataset
  setting VARCHAR NOT NULL,  -- T->V, V->T, T->VV*, V->TT*, T*->VV*, V*->TT* (* = unsafe)
  k INTEGER NOT NULL,  -- cut-off
  hits BIGINT NOT NULL,  -- queries whose safe partner is among the first k
  n BIGINT NOT NULL,  -- queries
  recall DOUBLE NOT NULL,  -- hits / n
  low DOUBLE NOT NULL,  -- 95 % interval (Wilson)
  high DOUBLE NOT NULL  -- 95 % interval (Wilson)
);

-- Attributes of a dataset with parts: whom they describe, and how often they hold.
CREATE TABLE part_attribute (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  attribute VARCHAR NOT NULL,  -- attribute
  owner VARCHAR NOT NULL,  -- part it describes; global; several parts joined with +
  excluded VARCHAR,  -- why it stays out of averages; NULL: it counts
  split VARCHAR NOT NULL,  -- train, val or test
  n_valid BIGINT NOT NULL,  -- pictures where it is annotated with enough certainty
  n_positive BIGINT NOT NULL  -- of them, where it holds
);

-- Parts of pictures as a backbone sees them.
CREATE TABLE leak_parts (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  sample_id VARCHAR NOT NULL,  -- picture
  part VARCHAR NOT NULL,  -- part, or whole, background
  present BOOLEAN NOT NULL,  -- whether single-stage vectors exist
  present_two_stage BOOLEAN NOT NULL,  -- whether two-stage vectors exist
  n_pixels BIGINT NOT NULL,  -- pixels of the mask at the input's size
  n_patches INTEGER NOT NULL,  -- patches that the pooling rule keeps
  n_patches_two_stage INTEGER NOT NULL,  -- patches that the two-stage rule keeps
  rule VARCHAR NOT NULL,  -- any, majority, all or nearest_exact: for pooling
  rule_two_stage VARCHAR NOT NULL,  -- the same for two-stage vectors
  reason VARCHAR  -- why it is absent; NULL where it is there in both
);

-- Pictures with masks drawn over them.
CREATE TABLE leak_picture (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  sample_id VARCHAR NOT NULL,  -- picture
  split VARCHAR NOT NULL,  -- train, val or test
  picture BLOB NOT NULL,  -- JPEG of what the backbone gets
  overlay BLOB NOT NULL,  -- JPEG with the parts' patches coloured, in the order of `parts`
  parts VARCHAR[] NOT NULL,  -- parts in the order of their colours
  colours VARCHAR[] NOT NULL  -- their colours, #rrggbb
);

-- Probes: an attribute read from the vectors of one part.
CREATE TABLE leak_probe (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  extractor VARCHAR NOT NULL,  -- single, two_stage, or a control such as random_region, mask_only, label_only, label_shuffle
  layer INTEGER NOT NULL,  -- layer, 0 = patch embedding; -1 for controls that read no features
  source_part VARCHAR NOT NULL,  -- part whose vector is read
  attribute VARCHAR NOT NULL,  -- what is predicted
  owner_part VARCHAR NOT NULL,  -- part that the attribute describes; global; several joined with +
  is_own BOOLEAN NOT NULL,  -- whether the source part is the owner
  averaged BOOLEAN NOT NULL,  -- whether it enters the averages own and cross: those run over attributes that have both, and over parts only
  probe VARCHAR NOT NULL,  -- ridge, logreg or mlp
  penalty DOUBLE,  -- lambda (ridge), C (logreg); NULL for mlp
  n_train BIGINT NOT NULL,  -- pictures it was fitted on
  n_test BIGINT NOT NULL,  -- pictures it was scored on
  base_rate DOUBLE,  -- share of positives among the test pictures
  auroc DOUBLE,  -- area under the ROC curve; NULL where skipped
  ap DOUBLE,  -- average precision; NULL where skipped
  skipped_reason VARCHAR  -- why there is no score
);

-- Leakage measures with intervals (definitions of this project).
CREATE TABLE leak_summary (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  extractor VARCHAR NOT NULL,  -- whose probes
  versus VARCHAR,  -- extractor it is compared with; NULL for measures of one
  layer INTEGER NOT NULL,  -- layer; -1 for controls that read no features
  probe VARCHAR NOT NULL,  -- ridge, logreg or mlp
  metric VARCHAR NOT NULL,  -- auroc, or ap (average precision minus base rate)
  measure VARCHAR NOT NULL,  -- own, cross, locality_gap, leak_ratio, excess_leakage, normalised_leakage, own_delta
  value DOUBLE,  -- the measure; NULL where no attribute allows it
  ci_low DOUBLE,  -- 95 % interval, bootstrap over test pictures
  ci_high DOUBLE,  -- 95 % interval
  n_attributes INTEGER NOT NULL,  -- attributes averaged
  n_test BIGINT NOT NULL,  -- test pictures scored: the most of all probes that are averaged; 0 where none is
  resamples INTEGER NOT NULL,  -- bootstrap resamples
  n_groups BIGINT,  -- originals that the test pictures show, which are resampled whole; NULL: pictures stand alone
  bootstrap VARCHAR  -- exact, or projected (first-order expansion); NULL without resamples
);

-- Leakage by pair of parts.
CREATE TABLE leak_pair (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  extractor VARCHAR NOT NULL,  -- whose probes
  layer INTEGER NOT NULL,  -- layer
  probe VARCHAR NOT NULL,  -- ridge, logreg or mlp
  source_part VARCHAR NOT NULL,  -- part whose vector is read
  owner_part VARCHAR NOT NULL,  -- part whose attributes are predicted
  auroc_mean DOUBLE,  -- mean over the owner's attributes
  ci_low DOUBLE,  -- 95 % interval, bootstrap over test pictures
  ci_high DOUBLE,  -- 95 % interval
  n_attributes INTEGER NOT NULL  -- attributes averaged
);

-- What part vectors depend on, measured without labels, picture by picture.
CREATE TABLE leak_dependence (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  sample_id VARCHAR NOT NULL,  -- picture
  part VARCHAR NOT NULL,  -- part
  extractor VARCHAR NOT NULL,  -- single or two_stage
  layer INTEGER NOT NULL,  -- layer
  replacement VARCHAR NOT NULL,  -- what pixels were replaced with: donor, mean or noise
  grad_share_out DOUBLE,  -- share of the absolute gradient of |f|^2/2 on pixels outside the part; NULL without any gradient
  d_out DOUBLE,  -- 1 - cosine of the vector before and after the outside was replaced
  d_in DOUBLE,  -- the same for the inside
  out_share DOUBLE  -- d_out / (d_out + d_in); NULL where both are 0
);

-- Means of the dependence audit.
CREATE TABLE leak_dependence_summary (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  part VARCHAR NOT NULL,  -- part, or all
  extractor VARCHAR NOT NULL,  -- single or two_stage
  layer INTEGER NOT NULL,  -- layer
  measure VARCHAR NOT NULL,  -- grad_share_out, d_out, d_in, out_share
  mean DOUBLE,  -- over pictures
  ci_low DOUBLE,  -- 95 % interval, bootstrap over pictures
  ci_high DOUBLE,  -- 95 % interval
  largest DOUBLE,  -- largest of all pictures
  n BIGINT NOT NULL,  -- pictures
  n_groups BIGINT  -- originals that they show, which are resampled whole; NULL: pictures stand alone
);

-- Where the attention of a part goes (descriptive only).
CREATE TABLE leak_attention (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  layer INTEGER NOT NULL,  -- block, from 1
  head INTEGER,  -- head, from 0; NULL: attention rollout up to this block
  part VARCHAR NOT NULL,  -- part whose queries are looked at
  on_part DOUBLE NOT NULL,  -- mean attention on the part's own patches
  on_object DOUBLE NOT NULL,  -- on the other patches of the object
  on_background DOUBLE NOT NULL,  -- on patches outside the object
  on_prefix DOUBLE NOT NULL,  -- on CLS and registers
  area DOUBLE NOT NULL,  -- mean share of patches that are the part's
  n BIGINT NOT NULL  -- pictures
);

-- Tokens of high norm (median + 5 MAD), which may hold what is not their patch.
CREATE TABLE leak_token_norm (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  layer INTEGER NOT NULL,  -- layer
  n_pictures BIGINT NOT NULL,  -- pictures
  n_tokens BIGINT NOT NULL,  -- patch tokens looked at
  n_high BIGINT NOT NULL,  -- of them, above the threshold of their picture
  share_in_parts DOUBLE,  -- share of the high ones that lie in some part
  median_norm DOUBLE NOT NULL,  -- median over all tokens
  largest_norm DOUBLE NOT NULL,  -- largest
  d_out_with DOUBLE,  -- mean d_out of single-stage vectors
  d_out_without DOUBLE  -- the same pooled without high-norm tokens
);

-- What a concept predictor says when one part is hidden.
CREATE TABLE leak_masked_answer (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  predictor VARCHAR NOT NULL,  -- model
  sample_id VARCHAR NOT NULL,  -- picture
  masked_part VARCHAR,  -- hidden part; NULL: the picture as it is
  draw INTEGER NOT NULL,  -- number of the draw, from 0; -1 for pictures as they are
  concept VARCHAR NOT NULL,  -- concept (attribute)
  value DOUBLE,  -- the predictor's value in 0..1; NULL where it gave none
  reason VARCHAR  -- why there is none
);

-- Masking response: change of a part's concepts when a part is hidden.
CREATE TABLE leak_masking_response (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  predictor VARCHAR NOT NULL,  -- model
  concept_part VARCHAR NOT NULL,  -- part whose concepts are looked at
  masked_part VARCHAR NOT NULL,  -- hidden part
  mean_abs_change DOUBLE,  -- mean over pictures and concepts
  std DOUBLE,  -- standard deviation over pictures
  ci_low DOUBLE,  -- 95 % interval, bootstrap over pictures
  ci_high DOUBLE,  -- 95 % interval
  mean_change DOUBLE,  -- signed
  n BIGINT NOT NULL,  -- pictures
  n_concepts INTEGER NOT NULL  -- concepts
);

-- Locality of concept predictors, from their masking response.
CREATE TABLE leak_locality (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  predictor VARCHAR NOT NULL,  -- model
  concept VARCHAR,  -- concept; NULL: all
  measure VARCHAR NOT NULL,  -- own (its part hidden), other (another part hidden), locality_score = own / (own + other), accuracy, auroc (pictures as they are), largest_change_outside and largest_change_inside (under optimised perturbations of equally many pixels outside or inside its part)
  value DOUBLE,  -- the measure
  ci_low DOUBLE,  -- 95 % interval, bootstrap over pictures
  ci_high DOUBLE,  -- 95 % interval
  n BIGINT NOT NULL,  -- pictures
  n_groups BIGINT  -- originals that they show, which are resampled whole; NULL: pictures stand alone
);

-- Part discovery: losses by epoch.
CREATE TABLE discover_epoch (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  arch VARCHAR NOT NULL,  -- single or two_stage
  seed BIGINT NOT NULL,  -- seed of the training
  epoch INTEGER NOT NULL,  -- from 1
  term VARCHAR NOT NULL,  -- attributes, class, tv, presence, background, entropy, orth, equiv, conc, total
  value DOUBLE NOT NULL  -- mean over the epoch's batches, before its weight (total: with the weights)
);

-- Part discovery: what came of it on the test pictures.
CREATE TABLE discover_metrics (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  arch VARCHAR NOT NULL,  -- single or two_stage
  seed BIGINT NOT NULL,  -- seed of the training
  slots INTEGER NOT NULL,  -- part slots K
  routing VARCHAR NOT NULL,  -- fixed or learned
  metric VARCHAR NOT NULL,  -- nmi, ari, dense_nmi, dense_ari, keypoint_error, pointing, miou, foreground_iou, attribute_map, class_top1, own, cross, excess_leakage ...
  value DOUBLE,  -- nmi, ari and keypoint_error x 100
  ci_low DOUBLE,  -- 95 % interval, bootstrap over test pictures
  ci_high DOUBLE,  -- 95 % interval
  n BIGINT NOT NULL  -- test pictures
);

-- Part discovery: what each slot found.
CREATE TABLE discover_slots (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  arch VARCHAR NOT NULL,  -- single or two_stage
  seed BIGINT NOT NULL,  -- seed of the training
  slot INTEGER NOT NULL,  -- from 0
  part VARCHAR,  -- its part: by name (fixed) or best assignment (learned); NULL: none
  iou DOUBLE,  -- with that part's masks
  pointing DOUBLE,  -- share of pictures where its strongest place lies in the part
  active DOUBLE NOT NULL,  -- share of pictures where it holds some pixel
  n BIGINT NOT NULL  -- pictures
);

-- Part discovery: pictures with the found parts drawn over them.
CREATE TABLE discover_picture (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  dataset VARCHAR NOT NULL,  -- dataset
  model VARCHAR NOT NULL,  -- backbone
  arch VARCHAR NOT NULL,  -- single or two_stage
  seed BIGINT NOT NULL,  -- seed of the training
  sample_id VARCHAR NOT NULL,  -- picture
  overlay BLOB NOT NULL,  -- JPEG with the slots coloured
  slots VARCHAR[] NOT NULL,  -- names of the slots in the order of their colours
  colours VARCHAR[] NOT NULL  -- their colours, #rrggbb
);

-- Questions about pictures, as a benchmark gives them.
CREATE TABLE vqa_item (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  benchmark VARCHAR NOT NULL,  -- benchmark
  item_id VARCHAR NOT NULL,  -- unique in the benchmark
  category VARCHAR,  -- subtask, topic or split of the benchmark
  question VARCHAR NOT NULL,  -- as it is asked, without the picture's mark
  choices VARCHAR[],  -- options in order; NULL where the answer is free
  answers VARCHAR[] NOT NULL,  -- accepted answers; a letter where there are choices
  uris VARCHAR[] NOT NULL,  -- pictures
  source_id VARCHAR,  -- where the pictures are read; NULL for none
  pair_id VARCHAR,  -- items that count together (MME), or were drawn together
  extra JSON,  -- what its scorer needs besides
  thumbnail BLOB  -- small JPEG of the first picture; NULL: not kept
);

-- What a model answered to each question, and what that scored.
CREATE TABLE vqa_answer (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  benchmark VARCHAR NOT NULL,  -- benchmark
  item_id VARCHAR NOT NULL,  -- question
  answer VARCHAR,  -- reply as it came; NULL where it failed
  parsed VARCHAR,  -- what the scorer read in it; NULL where it read nothing
  score DOUBLE,  -- 0..1; NULL where the model failed to answer
  failure VARCHAR  -- why there is no answer
);

-- Scores of a model by benchmark.
CREATE TABLE vqa_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  benchmark VARCHAR NOT NULL,  -- benchmark
  metric VARCHAR NOT NULL,  -- scorer, such as vqa_accuracy, anls, relaxed_accuracy, exact_match
  category VARCHAR,  -- of the benchmark's items; NULL: all of them
  value DOUBLE,  -- score in its own scale (MME: points)
  ci_low DOUBLE,  -- 95 % interval
  ci_high DOUBLE,  -- 95 % interval
  share DOUBLE,  -- value over full scale, 0..1
  n BIGINT NOT NULL,  -- items scored
  n_failed BIGINT NOT NULL,  -- items without an answer; they score 0
  n_total BIGINT NOT NULL,  -- items of the benchmark before any limit
  seconds DOUBLE  -- wall time of the answers
);

-- A model beside the original, by benchmark.
CREATE TABLE bench_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  benchmark VARCHAR NOT NULL,  -- benchmark
  metric VARCHAR NOT NULL,  -- metric
  value DOUBLE,  -- of this model
  value_original DOUBLE,  -- of the original
  retained DOUBLE,  -- value / value_original
  difference DOUBLE,  -- value - value_original, as shares of the full scale
  ci_low DOUBLE,  -- 95 % interval of the difference, items paired
  ci_high DOUBLE,  -- 95 % interval
  n BIGINT NOT NULL  -- items both answered
);

-- A model beside the original, over all benchmarks.
CREATE TABLE bench_aggregate (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  avg_ratio_of_means DOUBLE,  -- 100 x mean of shares / mean of the original's shares
  ci_low DOUBLE,  -- 95 % interval, items paired
  ci_high DOUBLE,  -- 95 % interval
  avg_mean_of_ratios DOUBLE,  -- 100 x mean of retained
  benchmarks INTEGER NOT NULL  -- benchmarks in both
);

-- Decoder blocks by a criterion of importance; lowest go first.
CREATE TABLE prune_layer_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model scored
  stage INTEGER NOT NULL,  -- pruning stage, from 0
  criterion VARCHAR NOT NULL,  -- block_influence, angular, perplexity, random, last ...
  layer INTEGER NOT NULL,  -- index in the original model, from 0
  score_sum DOUBLE,  -- sum over tokens
  score_mean DOUBLE,  -- mean over tokens
  n_tokens BIGINT,  -- tokens that counted; NULL: no data used
  rank INTEGER NOT NULL,  -- 0 goes first
  removed BOOLEAN  -- whether it went; NULL: only scored
);

-- Attention groups and neurons by a criterion of importance; lowest go first.
CREATE TABLE prune_unit_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model scored
  stage INTEGER NOT NULL,  -- pruning stage, from 0
  criterion VARCHAR NOT NULL,  -- taylor/param_first, activation, wanda_sp, flap, l1, l2, random ...
  layer INTEGER NOT NULL,  -- index in the original model
  kind VARCHAR NOT NULL,  -- kv_group, query_head or neuron
  unit INTEGER NOT NULL,  -- index within its layer in the original model
  score DOUBLE NOT NULL,  -- importance
  rank INTEGER NOT NULL,  -- within its layer and kind; 0 goes first
  kept BOOLEAN  -- whether it stayed; NULL: only scored
);

-- A model before and after each stage.
CREATE TABLE prune_model (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label
  stage INTEGER NOT NULL,  -- -1: the original
  params_llm BIGINT NOT NULL,  -- parameters of the language model, tied ones once
  params_total BIGINT NOT NULL,  -- of the whole model
  removed_fraction DOUBLE NOT NULL,  -- of the language model's parameters
  removed_total DOUBLE NOT NULL,  -- of all parameters
  layers_kept INTEGER[] NOT NULL,  -- original indices
  heads_kept INTEGER[] NOT NULL,  -- query heads by kept layer
  neurons_kept INTEGER[] NOT NULL,  -- neurons by kept layer
  bytes BIGINT,  -- of the checkpoint's weights; NULL: not written
  format VARCHAR,  -- uniform, manifest, masked; NULL: not written
  sha256 VARCHAR  -- of the checkpoint's weights
);

-- Training of vision-language models, step by step.
CREATE TABLE recovery_step (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- what was trained
  train_step INTEGER NOT NULL,  -- optimiser step, from 1
  epoch DOUBLE NOT NULL,  -- passes over the data so far
  loss DOUBLE NOT NULL,  -- total
  ce DOUBLE,  -- cross-entropy, nats a token
  kd_logits DOUBLE,  -- divergence of logits, unweighted
  kd_hidden DOUBLE,  -- distance of hidden states, unweighted
  lr DOUBLE NOT NULL,  -- learning rate
  grad_norm DOUBLE,  -- before clipping
  tokens BIGINT NOT NULL,  -- target tokens of the step
  seconds DOUBLE NOT NULL  -- wall time of the step
);

-- Wall time and memory of stages; speed of models.
CREATE TABLE prune_timing (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- model
  stage VARCHAR NOT NULL,  -- score, cut, finetune, evaluate
  seconds DOUBLE NOT NULL,  -- wall time
  peak_bytes BIGINT,  -- peak memory (accelerator, or resident set)
  prefill_tps DOUBLE,  -- prompt tokens a second
  decode_tps DOUBLE  -- new tokens a second
);

-- Perplexity of a model on a text or on conversations.
CREATE TABLE text_perplexity (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label
  data VARCHAR NOT NULL,  -- text
  domain VARCHAR,  -- domain; NULL: all
  perplexity DOUBLE,  -- exp of the mean negative log-likelihood a token
  nll DOUBLE,  -- nats a token
  ci_low DOUBLE,  -- 95 % interval of nll, by record
  ci_high DOUBLE,  -- 95 % interval
  tokens BIGINT NOT NULL,  -- tokens
  n BIGINT NOT NULL  -- records or windows
);

-- Experts of one base, and models trained on mixtures.
CREATE TABLE dmo_expert (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  name VARCHAR NOT NULL,  -- domain, or id of a mixture
  domain VARCHAR,  -- domain; NULL for a mixture
  path VARCHAR NOT NULL,  -- where its weights stand
  kind VARCHAR NOT NULL,  -- lora or full
  sha256 VARCHAR NOT NULL,  -- of its weights
  rank INTEGER,  -- of its LoRA
  scaling DOUBLE,  -- of its LoRA
  n_tensors BIGINT NOT NULL,  -- adapted tensors
  delta_norm DOUBLE  -- Euclidean norm of its difference to the base
);

-- How the experts' differences to the base lie to each other.
CREATE TABLE dmo_geometry (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  domain_i VARCHAR NOT NULL,  -- expert
  domain_j VARCHAR NOT NULL,  -- expert
  cosine DOUBLE  -- of the two differences; NULL where one is zero
);

-- Models trained on mixtures, seen along the axes of the experts.
CREATE TABLE dmo_projection (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  mixture_id VARCHAR NOT NULL,  -- mixture it was trained on
  domain VARCHAR NOT NULL,  -- expert
  coefficient DOUBLE,  -- least squares on the experts' differences to the base
  weight DOUBLE NOT NULL,  -- share of the domain in the mixture: the linear merge's coefficient
  residual DOUBLE  -- share of the squared norm outside their span, 0..1; NULL where the model equals the base
);

-- Mixtures of domains.
CREATE TABLE dmo_mixture (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  mixture_id VARCHAR NOT NULL,  -- unique in the run
  domains VARCHAR[] NOT NULL,  -- order of the weights
  weights DOUBLE[] NOT NULL,  -- shares
  source VARCHAR NOT NULL,  -- lattice, dirichlet, sobol, uniform, one_hot, explicit, search ...
  entropy DOUBLE NOT NULL,  -- nats
  quota BIGINT[]  -- training records by domain; NULL: not drawn
);

-- Merged models.
CREATE TABLE dmo_merge (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  mixture_id VARCHAR NOT NULL,  -- mixture
  method VARCHAR NOT NULL,  -- linear, ties ...
  execution VARCHAR NOT NULL,  -- batched_lora, served_lora, resident, stream, checkpoint
  n_merged BIGINT NOT NULL,  -- tensors merged
  n_copied BIGINT NOT NULL,  -- tensors of the base
  seconds DOUBLE,  -- of the merge
  bytes_written BIGINT,  -- 0: nothing written
  sha256 VARCHAR  -- of what was written
);

-- Scores of merged (proxy), trained (true) and predicted (regression) models.
CREATE TABLE dmo_score (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  mixture_id VARCHAR NOT NULL,  -- mixture
  kind VARCHAR NOT NULL,  -- proxy, true, regression/MODEL
  task VARCHAR NOT NULL,  -- benchmark, or loss/DOMAIN
  key VARCHAR NOT NULL,  -- metric
  value DOUBLE,  -- score; NULL where it failed
  n BIGINT NOT NULL,  -- items
  seconds DOUBLE,  -- wall time
  status VARCHAR NOT NULL  -- done, failed, or partial: a search gave it up after n items
);

-- Mixtures by the objective.
CREATE TABLE dmo_objective (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  mixture_id VARCHAR NOT NULL,  -- mixture
  kind VARCHAR NOT NULL,  -- proxy, true, regression/MODEL; KIND/2 is the second of its kind
  value DOUBLE,  -- objective; higher is better; NULL where a task is missing
  rank INTEGER,  -- 1 is best
  ci_low DOUBLE,  -- 95 % interval, bootstrap over items
  ci_high DOUBLE,  -- 95 % interval
  gap DOUBLE,  -- to the best of its kind; of halves to the chosen one
  gap_low DOUBLE,  -- 95 % interval of the gap, items paired
  gap_high DOUBLE,  -- 95 % interval
  chosen BOOLEAN  -- whether it was chosen, perhaps on other items than these; NULL: of another kind than those chosen among
);

-- What ranking mixtures took, beside training on every one of them.
CREATE TABLE dmo_cost (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  side VARCHAR NOT NULL,  -- proxy: experts and merges; direct: a model trained on each mixture
  training_runs BIGINT NOT NULL,  -- experts, or mixtures
  training_seconds DOUBLE,  -- of all runs; NULL: not known
  training_estimated BOOLEAN,  -- whether a mixture is taken to train as long as the mean expert; NULL: proxy
  merges BIGINT,  -- merged models; NULL: direct
  merge_seconds DOUBLE,  -- of all merges; NULL: not known
  bytes_written BIGINT,  -- by merges
  evaluations BIGINT,  -- scores of a mixture by a task
  items BIGINT,  -- items answered
  evaluation_seconds DOUBLE,  -- of all evaluations; NULL: not known
  saved_seconds DOUBLE  -- direct training less training of experts and merging; on both sides; NULL: not known
);

-- How far the ranking of stand-ins agrees with that of trained models.
CREATE TABLE dmo_validity (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  task VARCHAR NOT NULL,  -- task, or objective
  kind VARCHAR NOT NULL,  -- proxy, regression/MODEL; KIND/2 is the second of its kind
  n BIGINT NOT NULL,  -- mixtures in both
  spearman DOUBLE,  -- rank correlation
  spearman_low DOUBLE,  -- 95 % interval, bootstrap over mixtures
  spearman_high DOUBLE,  -- 95 % interval
  p_value DOUBLE,  -- permutation test of no association
  kendall_tau_b DOUBLE,  -- rank correlation
  pearson DOUBLE,  -- linear correlation
  regret DOUBLE,  -- best true value - true value of the selected
  true_rank_selected INTEGER,  -- 1 is best
  topk_overlap DOUBLE,  -- share of the best k in both
  k INTEGER,  -- of top k
  gain_over_uniform DOUBLE,  -- true value of the selected - of the uniform mixture
  gain_over_mean DOUBLE  -- true value of the selected - mean over mixtures
);

-- Fits of the objective over the simplex, round by round.
CREATE TABLE dmo_surrogate (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  round INTEGER NOT NULL,  -- from 0
  task VARCHAR NOT NULL,  -- task, or objective
  model VARCHAR NOT NULL,  -- scheffe2, gp, regmix, mixing_law, exhaustive, cmaes, halving, local, doremi
  coefficients DOUBLE[],  -- of the fit; NULL where it has none
  loo_r2 DOUBLE,  -- leave-one-out R squared
  argmax DOUBLE[],  -- mixture it proposes
  value DOUBLE,  -- predicted there
  n BIGINT NOT NULL  -- points fitted
);

-- Samples of the proactive scenarios.
CREATE TABLE pb_samples (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  scenario VARCHAR NOT NULL,  -- ROD, VSOD, MVP-N, IN-C, QD, CIT, COCO
  sample_id VARCHAR NOT NULL,  -- unique in the scenario and split
  split VARCHAR NOT NULL,  -- test, train
  question_type VARCHAR,  -- of scenarios that ask several kinds of questions
  question VARCHAR NOT NULL,  -- as it is asked
  answer VARCHAR NOT NULL,  -- the right category
  categories VARCHAR[] NOT NULL,  -- in the order shown
  options VARCHAR[] NOT NULL,  -- what else may be chosen, in the order shown before them
  n_frames INTEGER NOT NULL,  -- frames or views
  max_turns INTEGER NOT NULL,  -- turns at most
  kept BOOLEAN NOT NULL,  -- whether the filter keeps it; rows of others stay for the record and are not played
  probe_hits INTEGER,  -- probes that were right on the first turn; NULL: not probed
  n_probes INTEGER,  -- probes
  source_id VARCHAR NOT NULL,  -- where the frames are read
  uris VARCHAR[] NOT NULL,  -- frames in order (crops: the one picture)
  visible DOUBLE[],  -- share of the object that each frame shows, 0..1; NULL: not known
  drawn_with VARCHAR,  -- samples of one drawing: resampled together; NULL: alone
  record JSON NOT NULL  -- as in the published layout
);

-- Episodes. Of an exact evaluation: expected values over all that may happen.
CREATE TABLE pb_episodes (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model, policy or person
  episode_id VARCHAR NOT NULL,  -- SCENARIO/SAMPLE, with /DRAW where there are several
  scenario VARCHAR NOT NULL,  -- scenario
  sample_id VARCHAR NOT NULL,  -- sample
  draw INTEGER NOT NULL,  -- repeated draws of one sample, from 0
  mode VARCHAR NOT NULL,  -- mcqa, reference, frames, exact, oeg, oeg_multiturn, person
  hint BOOLEAN NOT NULL,  -- whether the question was followed by a hint
  history BOOLEAN NOT NULL,  -- whether earlier turns were shown
  shots INTEGER NOT NULL,  -- solved conversations shown before
  options_mode VARCHAR NOT NULL,  -- native, foreign
  match VARCHAR NOT NULL,  -- strict, robust, constrained; judge for open-ended answers
  turns DOUBLE,  -- answers given; expected in exact mode; NULL where status is error
  interventions DOUBLE,  -- turns - 1: requests that were met
  success BOOLEAN,  -- NULL in exact mode, and where status is error
  p_success DOUBLE,  -- 1 or 0; in exact mode its probability
  p_exhausted DOUBLE,  -- all turns were used; in exact mode its probability
  stop_reason VARCHAR,  -- success, wrong_category, abstain, invalid_ask, unreadable, exhausted, error; NULL in exact mode
  first_turn_correct BOOLEAN,  -- the right category was named on turn 1, whether it counted or not
  status VARCHAR NOT NULL,  -- ok, error
  failure VARCHAR,  -- why there is no episode
  prompt_tokens BIGINT,  -- of all turns
  completion_tokens BIGINT  -- of all turns
);

-- Turns of episodes. In mode `frames`: the frames on the way from the first to the last, each asked about once.
CREATE TABLE pb_turns (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  episode_id VARCHAR NOT NULL,  -- episode
  turn INTEGER NOT NULL,  -- from 1
  forced BOOLEAN NOT NULL,  -- whether only categories were shown
  place DOUBLE,  -- how far along the way to the most telling frame, 0..1; NULL: not known
  frame INTEGER NOT NULL,  -- number of the frame or view
  source_id VARCHAR NOT NULL,  -- where it is read
  uri VARCHAR NOT NULL,  -- picture
  crop DOUBLE[],  -- left, top, right, bottom in pixels of the picture; NULL: all of it
  image_sha1 VARCHAR,  -- of the bytes that were shown
  prompt_sha1 VARCHAR,  -- of the text that was shown, with what came before
  prompt VARCHAR NOT NULL,  -- text of the turn
  options VARCHAR[],  -- in the order shown; NULL: none
  option_kinds VARCHAR[],  -- ask_valid, ask_invalid, abstain, category_true, category_false; never shown to a model
  probabilities DOUBLE[],  -- of the options, where the model was asked for them
  answer VARCHAR,  -- reply as it came
  match_kind VARCHAR,  -- letter, text, both, mismatch, conflict, ambiguous, constrained
  matched_index INTEGER,  -- option, from 0
  matched_kind VARCHAR,  -- as in option_kinds
  action_verdict VARCHAR,  -- correct, wrong, mismatch
  category_verdict VARCHAR,  -- correct, wrong, mismatch
  action VARCHAR,  -- what was done: left, right, rewind, wait, next, up, down, farther; NULL: the episode ended
  next_frame INTEGER,  -- frame that was led to
  logprob DOUBLE,  -- log-likelihood of the reply
  thumbnail BLOB  -- small JPEG of what was shown; NULL: not kept
);

-- What a judge read in open-ended answers.
CREATE TABLE pb_judgements (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  episode_id VARCHAR NOT NULL,  -- episode
  turn INTEGER NOT NULL,  -- from 1
  refs VARCHAR[] NOT NULL,  -- ideas looked for: proactive ones, then the right category
  n_proactive INTEGER NOT NULL,  -- of them proactive
  raw VARCHAR,  -- judge's reply
  bits INTEGER[],  -- 1 where the answer expresses the idea; NULL: not read
  parse_ok BOOLEAN NOT NULL,  -- whether the reply could be read
  ps BOOLEAN,  -- a proactive idea is there
  cc BOOLEAN,  -- the category is there
  agg BOOLEAN,  -- one of both
  judge VARCHAR NOT NULL  -- model, or rules
);

-- Scores; rows of scenario `macro` are plain means over the scenarios.
CREATE TABLE pb_metrics (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  mode VARCHAR NOT NULL,  -- as in pb_episodes
  scenario VARCHAR NOT NULL,  -- scenario, or macro
  metric VARCHAR NOT NULL,  -- acc, psr, exhausted, first_turn_acc, asked, abstained, ... as docs/results.md lists
  value DOUBLE,  -- percent; psr: interventions an episode; NULL: nothing to count
  ci_low DOUBLE,  -- 95 % interval
  ci_high DOUBLE,  -- 95 % interval
  n BIGINT NOT NULL,  -- episodes, or turns
  n_error BIGINT NOT NULL,  -- episodes that failed; they count nowhere
  uniform DOUBLE  -- exact value of choosing among the shown options at random, on the same samples; NULL: has none
);

-- What was chosen turn by turn, among the episodes that still ran.
CREATE TABLE pb_by_turn (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  mode VARCHAR NOT NULL,  -- as in pb_episodes
  scenario VARCHAR NOT NULL,  -- scenario
  turn INTEGER NOT NULL,  -- from 1
  alive BIGINT NOT NULL,  -- episodes that reached it
  asked DOUBLE NOT NULL,  -- share of them: valid request
  invalid DOUBLE NOT NULL,  -- request that helps nothing
  abstained DOUBLE NOT NULL,  -- said that it cannot tell
  correct DOUBLE NOT NULL,  -- right category
  wrong DOUBLE NOT NULL,  -- wrong category
  unreadable DOUBLE NOT NULL  -- nothing of what was shown
);

-- Asking against competence, along the way from the first frame to the most telling one (mode `frames`).
CREATE TABLE pb_curves (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  scenario VARCHAR NOT NULL,  -- scenario, or macro
  place DOUBLE NOT NULL,  -- middle of the stretch of the way, 0 first frame .. 1 most telling one
  n BIGINT NOT NULL,  -- frames
  asked DOUBLE NOT NULL,  -- share of frames at which it asks
  forced_correct DOUBLE NOT NULL,  -- share at which it is right when only categories are shown
  over_asking DOUBLE,  -- asks although it would be right; share of those where it would be; NULL: none
  over_low DOUBLE,  -- 95 % interval
  over_high DOUBLE,  -- 95 % interval
  under_asking DOUBLE,  -- does not ask although it would be wrong; share of those where it would be; NULL: none
  under_low DOUBLE,  -- 95 % interval
  under_high DOUBLE  -- 95 % interval
);

-- Two models on the same samples.
CREATE TABLE pb_compared (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label
  other VARCHAR NOT NULL,  -- label that it is compared with
  mode VARCHAR NOT NULL,  -- as in pb_episodes
  scenario VARCHAR NOT NULL,  -- scenario, or macro
  metric VARCHAR NOT NULL,  -- acc, psr, discrimination
  difference DOUBLE,  -- model - other
  ci_low DOUBLE,  -- 95 % interval, samples paired
  ci_high DOUBLE,  -- 95 % interval
  n BIGINT NOT NULL  -- samples that both played
);

-- Reinforcement learning by group-relative policy optimisation, step by step.
CREATE TABLE grpo_steps (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  train_step INTEGER NOT NULL,  -- from 1
  reward_mean DOUBLE,  -- over rollouts
  reward_std DOUBLE,  -- over rollouts
  frac_zero_std DOUBLE,  -- share of groups whose rewards are all alike: they teach nothing
  share_ask DOUBLE,  -- rollouts with a request, also where it helps no more
  share_correct DOUBLE,  -- with the right category
  share_wrong DOUBLE,  -- with a wrong category
  share_abstain DOUBLE,  -- that abstain
  share_unreadable DOUBLE,  -- that name nothing shown
  kl DOUBLE,  -- to the model at the start; NULL: not computed
  entropy DOUBLE,  -- of the policy, nats a token
  clip_frac DOUBLE,  -- share of tokens whose ratio was clipped
  completion_len DOUBLE,  -- tokens
  lr DOUBLE,  -- learning rate
  grad_norm DOUBLE,  -- before clipping
  loss DOUBLE,  -- near 0 with one update a batch: read the reward
  seconds DOUBLE  -- wall time
);

-- Answers drawn while training.
CREATE TABLE grpo_rollouts (
  run_id VARCHAR NOT NULL,  -- run
  variant VARCHAR NOT NULL,  -- variant
  step VARCHAR NOT NULL,  -- step
  model VARCHAR NOT NULL,  -- label of the model
  train_step INTEGER NOT NULL,  -- from 1
  prompt_id VARCHAR NOT NULL,  -- SCENARIO/SAMPLE/frame
  rollout INTEGER NOT NULL,  -- from 0
  turn INTEGER NOT NULL,  -- from 1
  text VARCHAR NOT NULL,  -- answer
  reward DOUBLE NOT NULL,  -- reward of the episode
  advantage DOUBLE NOT NULL,  -- of its group
  matched_kind VARCHAR  -- as in pb_turns
);
