# Looks at everything, compares what was found with what was planted, repairs, looks again.
package SyncExt::Month::Judge;

use strict;
use utf8;
use warnings;

use JSON::PP;
use Time::HiRes qw(sleep time);

my $REASON = 'the month is closed';

sub new
{
	my ($class, $month, $faults) = @_;
	return bless { month => $month, faults => $faults }, $class;
}

#----------------------------------------------------------------------
# Looking
#----------------------------------------------------------------------

# All that reconciliation has: each object of each system as it is known and (unless quickly) as it is
# listed now, billing beside the ERP, and every rule. Returns the run before the first.
sub look
{
	my ($self, %option) = @_;
	my $month = $self->{month};
	my $first = $month->psql('SELECT coalesce(max(id), 0) FROM sync.reconciliation;');

	$month->timed('against what is known of each system', sub {
		$month->psql("SELECT sync.reconcile(s.system, s.object) FROM sync.stream_status s ORDER BY 1;");
	});
	$self->look_at_listings($first) if !$option{quickly};
	$month->timed('billing beside the ERP', sub {
		$month->psql("SELECT sync.reconcile('billing_' || lower(code), 'invoice', NULL, 'mirror', 'erp_' || lower(code)) FROM canonical.legal_entity ORDER BY code;");
	});
	$month->timed('every rule', sub {
		my $errors = $month->rows('SELECT rule, error FROM sync.run_rules() WHERE error IS NOT NULL');
		$month->check(!@$errors, 'every rule runs', join "\n", map { "$_->{rule}: $_->{error}" } @$errors);
	});
	my $failed = $month->rows("SELECT source, state, error FROM sync.reconciliation WHERE id > $first AND state <> 'done'");
	$month->check(!@$failed, 'every run is done', join "\n", map { "$_->{source} $_->{state}: " . ($_->{error} // '') } @$failed);
	return $first;
}

sub look_at_listings
{
	my ($self, $first) = @_;
	my $month = $self->{month};

	$month->timed('against what each system lists now', sub {
		$month->psql("SELECT sync.reconcile(s.system, s.object, NULL, 'full') FROM sync.stream_status s ORDER BY 1;");
		$month->eventually('listings are at their end', 0, "SELECT count(*) FROM sync.reconciliation WHERE id > $first AND state = 'running'");
	});
	return;
}

# What is open, each with the name by which the table of faults knows its kind.
sub open_breaks
{
	my ($self) = @_;
	return $self->{month}->rows("SELECT b.id, b.source, CASE WHEN b.source LIKE 'rule:%' THEN substr(b.source, 6) ELSE concat_ws('.', b.object, b.kind) END AS kind,
		       b.object, b.record_id, b.record_number, b.remote_id, b.field, b.system, b.ours, b.theirs, b.difference, b.currency, b.detail
		  FROM sync.break_entry b WHERE b.status = 'open' ORDER BY b.id");
}

sub words
{
	my ($break) = @_;
	return join ' ', map { $_ // () } "#$break->{id}", $break->{source}, $break->{kind}, $break->{record_number} // $break->{record_id}, $break->{remote_id},
	  $break->{field}, map { defined && !ref ? $_ : () } @$break{qw(ours theirs difference currency detail)};
}

sub none
{
	my ($self, $claim) = @_;
	my $open = $self->open_breaks;
	my $more = @$open > 25 ? "\n… and " . (@$open - 25) . ' more' : '';
	my %kind;

	$kind{"$_->{source} $_->{kind}"}++ foreach @$open;
	return $self->{month}->check(!@$open, $claim,
		join("\n", (map { "$kind{$_} × $_" } sort keys %kind), map { words($_) } @$open > 25 ? @$open[ 0 .. 24 ] : @$open) . $more);
}

sub silent
{
	my ($self, $what) = @_;
	$self->look;
	$self->none("$what has no break");
	$self->statements($what, show => 1);
	$self->certify;
	return;
}

#----------------------------------------------------------------------
# What a month end needs
#----------------------------------------------------------------------

my $PERIOD = "daterange((date_trunc('month', month.today()) - interval '1 month')::date, date_trunc('month', month.today())::date)";

# Each statement of the month, with what differs in it.
my %STATEMENT = (
	'receivables and the ERP' => 'SELECT entity, currency, total, erp_amount, difference, erp_unknown FROM sync.ar_aging_tie_out(month.today())',
	'deferred revenue and the ledger' => "SELECT entity, currency, opening, billed, recognized, reversed, closing, ledger_balance, difference FROM sync.deferred_rollforward($PERIOD)",
	'payouts and their movements' => "SELECT entity, currency, count(*) AS payouts, sum(gross) AS gross, sum(refunds) AS refunds, sum(disputes) AS disputes, sum(fees) AS fees,
		sum(amount) AS amount, sum(abs(difference)) AS difference FROM sync.payout_reconciliation($PERIOD) GROUP BY 1, 2 ORDER BY 1, 2",
);

sub statements
{
	my ($self, $when, %option) = @_;
	my $month = $self->{month};

	foreach my $name (sort keys %STATEMENT)
	{
		my $differing = $month->timed($name, sub { $month->rows("SELECT s.* FROM ($STATEMENT{$name}) s WHERE s.difference IS DISTINCT FROM 0") });
		$month->show($name, $STATEMENT{$name}) if $option{show};
		$month->check(!@$differing, "$when: $name agree", join "\n", map { my $row = $_; join ' ', map { "$_ " . ($row->{$_} // '-') } sort keys %$row } @$differing);
	}
	return;
}

sub certify
{
	my ($self) = @_;
	my $month = $self->{month};
	my $made = $month->timed('the month is certified', sub {
		$month->psql("SELECT count(sync.certify($PERIOD, code, '$REASON')) FROM canonical.legal_entity;");
	});
	$month->is($made, 2, 'the month is certified for both entities');
	return;
}

# Figures that are not as they were certified.
sub drift
{
	my ($self) = @_;
	return $self->{month}->rows('SELECT entity, object, figure, currency, account, certified, now FROM sync.period_drift WHERE difference <> 0');
}

#----------------------------------------------------------------------
# Found and planted
#----------------------------------------------------------------------

# Each open break goes to the fault at whose records it is and that names its kind. Returns what goes
# nowhere: breaks, each with a fault that was planted at its record, if any.
sub assign
{
	my ($self, @fault) = @_;
	my (%at, @nowhere);

	foreach my $fault (@fault)
	{
		push @{ $at{$_} }, $fault foreach grep { defined } @{ $fault->{row}{records} };
		$fault->{seen} = [];
	}
	foreach my $break (@{ $self->open_breaks })
	{
		my %seen;
		my @here = grep { !$seen{$_}++ } map { @{ $at{$_} // [] } } grep { defined } @$break{qw(record_id record_number remote_id)};
		my ($fault) = grep { my %expected = map { $_ => 1 } @{ $_->{found} }, @{ $_->{also} }; $expected{ $break->{kind} } } @here;
		$fault ? push @{ $fault->{seen} }, $break : push @nowhere, [ $break, $here[0] ];
	}
	return @nowhere;
}

sub found
{
	my ($self) = @_;
	my $month = $self->{month};
	my @fault = $self->{faults}->planted;

	$self->look;
	my @false = $self->assign(@fault);
	my @missed = grep { my $fault = $_; !grep { my $kind = $_; grep { $_->{kind} eq $kind } @{ $fault->{seen} } } @{ $fault->{found} } } @fault;

	$self->table(\@fault);
	$month->tell('', sprintf('   planted %d, found %d, false %d', scalar @fault, @fault - @missed, scalar @false));
	$month->check(!@missed, 'every fault is found and named', join "\n", map {
		my $fault = $_;
		"missed: $fault->{name} at " . join(' ', grep { defined } @{ $fault->{row}{records} }) . ', expected ' . join(' or ', @{ $fault->{found} })
		  . (@{ $fault->{seen} } ? ', seen only: ' . join(' ', map { $_->{kind} } @{ $fault->{seen} }) : '')
	} @missed);
	$month->check(!@false, 'nothing else is reported', join "\n", map { 'false: ' . words($_->[0]) . ($_->[1] ? " (planted here: $_->[1]{name})" : '') } @false);
	$month->check(scalar @{ $self->drift }, 'the certified month is told to have drifted', 'sync.period_drift shows no difference');
	return;
}

sub table
{
	my ($self, $fault) = @_;
	my (%planted, %breaks, @name);

	foreach my $one (@$fault)
	{
		push @name, $one->{name} if !$planted{ $one->{name} }++;
		$breaks{ $one->{name} }{ $_->{kind} }++ foreach @{ $one->{seen} };
	}
	$self->{month}->tell('');
	foreach my $name (@name)
	{
		my $as = join ', ', map { "$breaks{$name}{$_} $_" } sort keys %{ $breaks{$name} };
		$self->{month}->tell(sprintf '   %3d × %-45s %s', $planted{$name}, $name, $as);
	}
	return;
}

#----------------------------------------------------------------------
# Repair
#----------------------------------------------------------------------

# What the hub can do, as the person who knows the case chooses, and what only a person can do. What is reversed
# in one round is made anew in the next; what comes back may lack what another system says of it.
sub repair
{
	my ($self) = @_;
	my $month = $self->{month};
	my @fault = sort { ($a->{row}{issue_date} // '') cmp($b->{row}{issue_date} // '') } $self->{faults}->planted;
	my %done;

	for my $round (1 .. 5)
	{
		my @chosen = grep { !$done{ $_->[1]{id} }++ } map { chosen($_, $round) } @fault;
		last if !@chosen && $round > 2;
		$self->repair_some($round, @chosen);
		$month->settle;
		$self->by_hand(@fault) if $round == 1;
		my $calls = $month->rows("SELECT operation, params, state, code, message FROM sync.api_call WHERE state <> 'done'");
		$month->check(!@$calls, 'every call of a repair is done', join "\n", map { "$_->{operation} $_->{state}: " . ($_->{message} // $_->{code} // '') } @$calls);
		$self->look(quickly => 1);
		$self->assign(@fault);
	}
	$self->how;
	return;
}

# [fault, break, remedy, options] of each break of a fault for which a remedy is chosen, headers before what
# hangs on them.
sub chosen
{
	my ($fault, $round) = @_;
	my @chosen;

	foreach my $break (sort { length $a->{object} <=> length $b->{object} || $a->{id} <=> $b->{id} } @{ $fault->{seen} })
	{
		my ($side) = $break->{source} =~ /^(pair):/ ? $1 : ($break->{system} // '') =~ /^([a-z]+)/;
		my @name = map { $_ . '/' . ($break->{field} // ''), $_ } ($side // '') . ":$break->{kind}", $break->{kind};
		my ($remedy) = grep { defined } @{ $fault->{repair} }{@name};
		my ($what, $options, $not_before) = ref $remedy ? @$remedy : $remedy;
		push @chosen, [ $fault, $break, $what, ref $options eq 'CODE' ? $options->($fault->{row}) : $options // {} ] if $what && $round >= ($not_before // 1);
	}
	return @chosen;
}

# The older first, and from the second round on one after the other: the ERP's numbers rise with its dates.
sub repair_some
{
	my ($self, $round, @chosen) = @_;
	my $month = $self->{month};
	my (%done, @refused);

	foreach (@chosen)
	{
		my ($fault, $break, $remedy, $options) = @$_;
		my $arguments = "remedy => '$remedy', options => '" . JSON::PP->new->canonical->encode($options) . "'";
		$month->show("What $remedy would do about break $break->{id}, $fault->{name}",
			"SELECT step, action, system, method, target, left(request, 70) AS request, left(detail, 70) AS detail FROM sync.repair($break->{id}, $arguments)")
		  if !$self->{shown}{$remedy}++;
		my $said = eval { $month->psql("SELECT count(*) FROM sync.repair($break->{id}, false, $arguments, reason => '$REASON');") };
		defined $said ? $done{$remedy}++ : push @refused, words($break) . ": $remedy: $@";
		$self->{repaired}{ $fault->{name} }{$remedy}++ if defined $said;
		next if $round == 1;
		$self->approve($break);
		$month->psql("SELECT sync.wait_idle('60 s');");
	}
	$month->tell("   round $round, by sync.repair(): " . join ', ', map { "$done{$_} × $_" } sort keys %done);
	$month->check(!@refused, 'every remedy that was chosen is possible', join "\n", @refused);
	$self->approve if $round == 1;
	return;
}

sub by_hand
{
	my ($self, @fault) = @_;

	foreach my $fault (grep { $_->{remedy} } @fault)
	{
		$fault->{remedy}->($fault->{row});
		$self->{repaired}{ $fault->{name} }{ $fault->{by} // "by hand: $fault->{desk}" }++;
	}
	$self->{month}->settle;
	return;
}

# How each kind was repaired; by the hub, unless nobody but a system's own clerk could.
sub how
{
	my ($self) = @_;
	my $month = $self->{month};
	my (%planted, @name);
	my $by_hand = 0;

	foreach my $fault ($self->{faults}->planted)
	{
		push @name, $fault->{name} if !$planted{ $fault->{name} }++;
		$by_hand++ if $fault->{desk};
	}
	$month->tell('');
	foreach my $name (@name)
	{
		my $by = $self->{repaired}{$name} // {};
		$month->tell(sprintf '   %3d × %-45s %s', $planted{$name}, $name, join ', ', map { /^by hand/ ? $_ : "$by->{$_} $_" } sort keys %$by);
	}
	my @mended = $self->{faults}->planted;
	$month->tell('', sprintf('   of %d faults, %d repaired by the hub, %d at the desk of the system that made them', scalar @mended, @mended - $by_hand, $by_hand));
	return;
}

# What waits for a second person. Of one break it is nothing to speak of.
sub approve
{
	my ($self, $break) = @_;
	my $month = $self->{month};
	my $approvals = $month->rows('SELECT id, operation FROM sync.approval ORDER BY id');
	my (%done, @failed);

	foreach my $approval (grep { !$self->{refused}{ $_->{id} } } @$approvals)
	{
		eval { $month->psql("SELECT sync.approve($approval->{id}, '$REASON');", user => 'controller'); 1 } ? $done{ $approval->{operation} }++ : push @failed, $@;
		$self->{refused}{ $approval->{id} } = 1;
	}
	$month->tell('   approved by a second person: ' . join ', ', map { "$done{$_} $_" } sort keys %done) if %done && !$break;
	$month->check(!@failed, 'what needs approval can be approved' . ($break ? ": break $break->{id}" : ''), join '', @failed) if @failed || @$approvals && !$break;
	return;
}

sub nothing_left
{
	my ($self) = @_;
	my $month = $self->{month};
	my $first = $self->look;

	$self->none('nothing is left open after the repair');
	my $totals = $month->rows("SELECT r.source, t.entity, t.object, t.period, t.currency, t.our_count, t.their_count, t.our_amount, t.their_amount
		  FROM sync.reconciliation_total t JOIN sync.reconciliation r ON r.id = t.reconciliation_id
		 WHERE r.id > $first AND (t.our_count <> t.their_count OR t.our_amount IS DISTINCT FROM t.their_amount)");
	$month->check(!@$totals, 'all totals agree: by entity, object, period and currency',
		join "\n", map { my $total = $_; join ' ', map { $_ // '-' } @$total{qw(source entity object period currency our_count our_amount their_count their_amount)} } @$totals);
	$self->statements('after the repair');
	my $drift = [ grep { $_->{figure} !~ /^records |breaks opened and resolved$/ } @{ $self->drift } ];
	$month->check(!@$drift, 'no figure of the certified month has changed', join "\n", map { my $row = $_; join ' ', map { $_ // '-' } @$row{qw(entity object figure currency account certified now)} } @$drift);
	$first = $self->look;
	my $again = $month->rows("SELECT source, found, opened, closed FROM sync.reconciliation WHERE id > $first AND (found > 0 OR opened > 0 OR closed > 0)");
	$month->check(!@$again, 'a second run is silent', join "\n", map { "$_->{source}: found $_->{found}, opened $_->{opened}, closed $_->{closed}" } @$again);
	my $violations = $month->psql("SELECT string_agg(invariant || ': ' || detail, E'\\n') FROM sync.check_invariants();");
	$month->check($violations eq '', 'sync.check_invariants() finds nothing', $violations);
	return;
}

1;
